"""A transactional outbox relay: committed Postgres rows reach NATS JetStream, in order, once.

    from relay import Relay, Settings

``Relay`` runs it, ``Settings`` says how; ``relay.memory`` has models for an application's tests.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relay.app import Relay
    from relay.settings import Settings

__all__ = ["Relay", "Settings"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the face when it is looked at: ``python -m relay --help`` needs none of it."""
    if name == "Relay":
        from relay.app import Relay

        return Relay
    if name == "Settings":
        from relay.settings import Settings

        return Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
