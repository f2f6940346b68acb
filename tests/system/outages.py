"""How a relay sits an outage out: what it says meanwhile, and that no event is to blame."""

import json
import threading
import time
from contextlib import suppress
from datetime import datetime
from typing import Any

from tests.system.harness import RelayProcess, connected, delivered, until

OUTAGE = 3.0
"""Seconds for which an outage is made to last: long against the relay's pauses, which are under
one."""

RECOVERED = 5.0
"""Seconds within which events flow again, once they can."""


class SittingOut:
    """What the relay has said since this was made, while something is wrong with a server."""

    def __init__(self, relay: RelayProcess) -> None:
        self._relay = relay
        self._before = len(self.said(of_all=True))
        self._began = time.time()

    def said(self, *, of_all: bool = False) -> list[dict[str, Any]]:
        found = self._relay.said()
        return found if of_all else found[self._before :]

    def heard(self, words: str, seconds: float) -> float:
        """Wait for a line with these words; s from the beginning to it."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.said() if words in json.dumps(line)]

        with suppress(AssertionError):
            until(lambda: bool(found()), seconds)
        assert found(), f"not heard within {seconds} s: {words}\n{self}"
        return datetime.fromisoformat(found()[0]["ts"]).timestamp() - self._began

    def for_long(self) -> None:
        """Let the outage last, and see that the relay neither ended nor span nor raved."""
        threading.Event().wait(max(0.0, self._began + OUTAGE - time.time()))
        seconds = time.time() - self._began
        assert self._relay.process.poll() is None, str(self)
        assert len(self.said()) <= 4 + seconds, str(self)  # it may say at once what began

    def __str__(self) -> str:
        return "\n".join(json.dumps(line) for line in self.said())


def flows(dsn: str) -> float:
    """Wait until more is delivered than now; how long that took, in s."""
    before, began = delivered(dsn), time.monotonic()
    until(lambda: delivered(dsn) > before, 20)
    return time.monotonic() - began


def unharmed(dsn: str) -> None:
    """See that no event was refused, and so none is dead; an outage may have set some aside."""
    with connected(dsn) as look:
        blamed = "select id, attempts, last_error from relay.parked where attempts > 0"
        assert look.execute(f"{blamed} or dead_at is not null").fetchall() == []
