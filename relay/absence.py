"""One side's absence, told once when it begins and once when it ends, however many tries it takes.

    there ──failed──► away ──failed──► away ──over──► there
                      OutageBegan              OutageEnded, with its length and its tries

Nothing here waits or decides: who asks that side does, and says how it went.
"""

import anyio

from relay.facts import OutageBegan, OutageEnded, Tell


class Absence:
    """Keeps the books of one side: "postgres" or "nats"."""

    def __init__(self, side: str, tell: Tell) -> None:
        """Begin with the side there, as far as is known."""
        self._side = side
        self._tell = tell
        self._since: float | None = None
        self._tries = 0

    @property
    def lasts(self) -> bool:
        """Whether the side is away."""
        return self._since is not None

    def failed(self, reason: str) -> None:
        """A try failed."""
        if self._since is None:
            self._since, self._tries = anyio.current_time(), 0
            self._tell(OutageBegan(self._side, reason))
        self._tries += 1

    def over(self) -> None:
        """The side answered. Nothing, if it was there."""
        if self._since is not None:
            seconds, self._since = anyio.current_time() - self._since, None
            self._tell(OutageEnded(self._side, seconds, self._tries))

    def forget(self) -> None:
        """Somebody else asks from now on: whether it lasts is not known here."""
        self._since = None
