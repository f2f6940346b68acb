"""What only the database knows: who leads, who stands by, what is parked, what is dead.

Looked at in a session of its own, and only while somebody watches the page: every two seconds at
most, and never for more than a tenth of the time, however long a look takes. One look serves
everybody. The payload is never read.

On failure the last look-up stays, with its age; the next look makes a new session.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anyio

from relay.errors import RelayError, SchemaError
from relay.http import reasons
from relay.http.feed import Feed
from relay.postgres.operator import DeadEvents, Found, ParkedKey, Wanted
from relay.postgres.session import Session
from relay.postgres.status import Standby, standbys, status

log = logging.getLogger("relay.http")

LOOK_EVERY: Final = 2.0
_SHARE: Final = 10
"""A look that took n seconds is followed by a pause of so many times n."""

LETTERS: Final = 50
KEYS: Final = 20


@dataclass(frozen=True, slots=True)
class LookUp:
    """One look.

    Attributes:
        at: monotonic s.
        outbox: the status row by column.
        rate: events/s settled between this look and the one before; None at the first.
        standbys: who stands by.
        dead: the first dead events.
        keys: the first keys that wait.
    """

    at: float
    outbox: dict[str, Any]
    rate: float | None
    standbys: Sequence[Standby]
    dead: Found
    keys: Sequence[ParkedKey]


class Database:
    """Looks while somebody watches.

    Attributes:
        look_up: the last look that worked.
        trouble: why the last one did not; "" if it did.
    """

    def __init__(
        self, dsn: str, schema: str, feed: Feed, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Look for the watchers of ``feed``; connect to nothing yet."""
        self._dsn = dsn
        self._schema = schema
        self._feed = feed
        self._now = now
        self._at_once = anyio.Event()
        self.look_up: LookUp | None = None
        self.trouble = ""

    def age(self, look_up: LookUp) -> float:
        """Return how many seconds ago a look was."""
        return self._now() - look_up.at

    def look_at_once(self) -> None:
        """Do not wait for the next turn: something was changed."""
        self._at_once.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._feed.until_watched()
            try:
                await self._look_while_watched()
            except RelayError as error:
                self.trouble = _told(error)
            except Exception:
                # A bug of a look must not end the page that would show its consequences.
                log.exception("looking at the database for the status page failed")
                self.trouble = reasons.UNKNOWN
            await self._rest(LOOK_EVERY)

    async def _look_while_watched(self) -> None:
        async with await Session.connect(self._dsn, "status page") as session:
            while self._feed.watched:
                began = self._now()
                self.look_up = await self._look(session)
                self.trouble = ""
                await self._rest(max(LOOK_EVERY, (self._now() - began) * _SHARE))
        self.look_up = None  # who comes later must not take it for the present

    async def _look(self, session: Session) -> LookUp:
        outbox = await status(session, self._schema)
        others = await standbys(session, self._schema)
        parked = DeadEvents(session, self._schema)
        nothing = Found([], 0, None)
        dead = await parked.find(Wanted(), LETTERS) if outbox["dead"] else nothing
        alive = outbox["parked"] > outbox["dead"]
        keys = await parked.keys(KEYS) if alive else []
        at = self._now()
        return LookUp(at, outbox, self._rate(outbox, at), others, dead, keys)

    def _rate(self, outbox: dict[str, Any], at: float) -> float | None:
        if self.look_up is None or at <= self.look_up.at:
            return None
        settled: int = outbox["delivered"] - self.look_up.outbox["delivered"]
        return max(0.0, settled / (at - self.look_up.at))

    async def _rest(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._at_once.wait()
        self._at_once = anyio.Event()


def _told(error: RelayError) -> str:
    if isinstance(error, SchemaError) and "migrate" not in str(error):
        return "its login may not look: grant it the relay's role"
    return reasons.why(str(error))
