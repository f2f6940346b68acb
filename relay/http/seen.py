"""What is seen of one relay: all that this package needs to know of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from relay.http.health import Health
from relay.http.heartbeat import Heartbeat
from relay.http.history import Latency
from relay.state import Metrics


class Watched(Protocol):
    """What ``relay.app.Relay`` is to this package."""

    def metrics(self) -> Metrics:
        """Return its figures; cheap."""
        ...

    @property
    def paths(self) -> Mapping[str, str]:
        """How each stream met so far is published to."""
        ...


@dataclass(frozen=True, slots=True)
class Seen:
    """The relay itself, and what its facts add up to."""

    relay: Watched
    health: Health
    latency: Latency
    heartbeat: Heartbeat
