"""What only the database knows: leader, standbys, what is parked. And retrying a dead event.

A look-up has a session of its own and is made only while somebody watches the page: at most every
two seconds, and never for more than a tenth of the time, however long a look-up takes. One look-up
serves every watcher. The payload is never read. On failure the last look-up stays, with its age;
the next one makes a new session.

A retry is the one change that the page can make: ``relay.postgres.operator`` says what it means and
who is right. It has a session of its own; one retry runs at a time.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anyio

from relay.errors import RelayError, SchemaError
from relay.http.feed import Feed
from relay.http.health import SCHEMA, UNKNOWN, reason_of
from relay.http.summary import OutboxSize
from relay.postgres.operator import DeadEvents, Found, ParkedKey, Wanted
from relay.postgres.session import Session
from relay.postgres.sqlfiles import load
from relay.postgres.status import Standby, standbys, status

log = logging.getLogger("relay.http")

LOOK_EVERY: Final = 2.0
_PAUSE: Final = 10
"""A look-up of n seconds is followed by a pause of so many times n."""

_FRESH: Final = 10.0
"""Seconds for which a look-up counts as the present."""

GROWTH_OVER: Final = 60.0
"""Seconds over which the outbox's growth is measured; a sixth of it is enough to say something."""

MOST_EVENTS: Final = 50
_MOST_KEYS: Final = 20
_RETRY_WITHIN: Final = 20.0

Answer = tuple[int, str]
"""An HTTP status, and a sentence for the person."""


@dataclass(frozen=True, slots=True)
class LookUp:
    """What one look-up found.

    Attributes:
        at: monotonic s.
        outbox: the status row by column.
        rate: events/s settled since the look-up before; None at the first.
        standbys: of this outbox.
        dead: the first dead events.
        keys: the first keys of which events wait alive.
        size: what the outbox takes up, and by how much it grows.
    """

    at: float
    outbox: dict[str, Any]
    rate: float | None
    standbys: Sequence[Standby]
    dead: Found
    keys: Sequence[ParkedKey]
    size: OutboxSize


class Database:
    """The outbox's database, for the page.

    Attributes:
        last: the last look-up that worked; None once nobody watches any more.
        trouble: why the last one did not work; "" if it did.
    """

    def __init__(
        self, dsn: str, schema: str, feed: Feed, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Look up for the watchers of ``feed``; connect to nothing yet."""
        self._dsn = dsn
        self._schema = schema
        self._feed = feed
        self._now = now
        self._has_changed = anyio.Event()
        self._one_retry = anyio.Lock()
        self._sizes = deque[tuple[float, int]]()
        self.last: LookUp | None = None
        self.trouble = ""

    @property
    def age(self) -> float | None:
        """Seconds since the last look-up; None without one."""
        return None if self.last is None else self._now() - self.last.at

    @property
    def present(self) -> LookUp | None:
        """The last look-up if it still counts as the present."""
        return self.last if self.age is not None and self.age < _FRESH else None

    def look_up_at_once(self) -> None:
        """Cut the pause short: something was changed."""
        self._has_changed.set()

    async def run(self) -> None:
        """Look up until cancelled."""
        while True:
            await self._feed.until_watched()
            try:
                await self._look_up_while_watched()
            except RelayError as error:
                self.trouble = _reason(error)
            except Exception:
                # A bug here must not end the page that shows its consequences.
                log.exception("looking at the database for the status page failed")
                self.trouble = UNKNOWN
            await self._rest(LOOK_EVERY)

    async def _look_up_while_watched(self) -> None:
        async with await Session.connect(self._dsn, "status page") as session:
            while self._feed.watched:
                began = self._now()
                self.last = await self._look_up(session)
                self.trouble = ""
                await self._rest(max(LOOK_EVERY, (self._now() - began) * _PAUSE))
        self.last = None  # a later watcher must not take it for the present

    async def _look_up(self, session: Session) -> LookUp:
        outbox = await status(session, self._schema)
        standing_by = await standbys(session, self._schema)
        events = DeadEvents(session, self._schema)
        dead = Found([], 0, None)
        if outbox["dead"]:
            dead = await events.find(Wanted(), MOST_EVENTS)
        keys: Sequence[ParkedKey] = []
        if outbox["parked"] > outbox["dead"]:
            keys = await events.keys(_MOST_KEYS)
        storage = await session.row(load("queries/storage", self._schema))
        assert storage is not None
        at, rate = self._now(), None
        if self.last is not None and at > self.last.at:
            settled: int = outbox["delivered"] - self.last.outbox["delivered"]
            rate = max(0.0, settled / (at - self.last.at))
        return LookUp(at, outbox, rate, standing_by, dead, keys, self._size(at, storage[0]))

    def _size(self, at: float, size: int) -> OutboxSize:
        """Add the present size; the growth since the oldest one that still counts."""
        self._sizes.append((at, size))
        while self._sizes[0][0] < at - GROWTH_OVER - LOOK_EVERY:
            self._sizes.popleft()
        since, before = self._sizes[0]
        known = at - since >= GROWTH_OVER / 6
        return OutboxSize(size, (size - before) / (at - since) if known else None)

    async def _rest(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            await self._has_changed.wait()
        self._has_changed = anyio.Event()

    async def retry(self, ids: Sequence[int] | None, by: str) -> Answer:
        """Let these dead events be tried again, None: all of them; ``by`` goes into the audit."""
        retried: list[int] = []
        try:
            with anyio.fail_after(_RETRY_WITHIN):
                async with self._one_retry:
                    answer = await self._retry(ids, by, retried)
        except TimeoutError:
            answer = 503, f"Postgres does not answer{_so_far(retried)}: try again"
        except SchemaError as error:
            if reason_of(str(error)) == SCHEMA:
                return 403, SCHEMA
            return 403, (
                "the relay's login may not decide on dead events: grant it the operator's role"
            )
        except RelayError as error:
            return 503, f"Postgres is away{_so_far(retried)}: {reason_of(str(error))}"
        finally:
            self.look_up_at_once()
        which = "all" if ids is None else ids
        log.info("retry asked for on the status page", extra={"id": which, "answer": answer[1]})
        return answer

    async def _retry(self, ids: Sequence[int] | None, by: str, retried: list[int]) -> Answer:
        wanted = Wanted() if ids is None else Wanted(parked=True, ids=ids)
        async with DeadEvents.open(self._dsn, self._schema) as events:
            found = await events.find(wanted, 1 if ids is None else len(ids))
            which = wanted if ids is None else found.events
            if found.as_of is not None:
                await events.decide("retry", which, by=by, as_of=found.as_of, done=retried.extend)
        if ids is None or len(ids) > 1:
            return _answer_of_many(len(retried), len(ids or retried))
        if not found.events:
            return 404, f"event {ids[0]} is not parked any more"
        if retried:
            return 200, f"event {ids[0]} is tried again"
        state = found.events[0].state
        return (
            409,
            f"event {ids[0]} is not dead {'any more' if state == 'dead' else f'but {state}'}",
        )


def _so_far(retried: Sequence[int]) -> str:
    return f", {len(retried):,} events are tried again" if retried else ""


def _answer_of_many(retried: int, asked: int) -> Answer:
    if not retried:
        return 409, "none of these events is dead any more"
    events = "1 event is" if retried == 1 else f"{retried:,} events are"
    rest = "" if retried >= asked else ", the others are not dead any more"
    return 200, f"{events} tried again{rest}"


def _reason(error: RelayError) -> str:
    if isinstance(error, SchemaError) and "migrate" not in str(error):
        return "its login may not look: grant it the relay's role"
    return reason_of(str(error))
