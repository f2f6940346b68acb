"""The world around the state machine's rules: processes, producers, time, and how a run ends well.

    rules (``machine``) ──► World ──► Process (engine) ──► store, bus, bell (faulty) ──► models
                                          └──facts──► Told, Ledger

At the end all faults stop, and within a bounded time everything has to be where it belongs.
"""

import random
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from unittest.mock import patch

import anyio
import trio

from relay.core.event import Event
from relay.engine.lead import Policy
from relay.memory import MemoryBus, MemoryOutbox
from tests.model.bus import FaultyBus, stream_of, take
from tests.model.clockwork import Clockwork
from tests.model.fates import Fates
from tests.model.faults import Faults
from tests.model.lease import Server
from tests.model.ledger import STRANGER, Ledger
from tests.model.process import Process
from tests.model.store import FaultyBell, FaultyOutbox
from tests.model.told import Told

LIVE_WITHIN = 60
"""Virtual seconds in which all is delivered once the faults have stopped: the longest pause (that
of an error which nobody knows, 30 s), a lifetime, a shutdown, and a few looks at the parked."""

REST_WITHIN = 20
"""Virtual seconds in which that is also told: calls that were late before are still under way."""

UNCAPTURED = 6.0
"""Seconds before an event may die for want of a stream; ten minutes would be long to wait here."""


class Wall:
    """The wall clock: virtual time and what it is wrong by."""

    def __init__(self) -> None:
        self.wrong_by = timedelta()

    def now(self, _zone: tzinfo) -> datetime:
        begin = datetime(2026, 1, 1, tzinfo=UTC)
        return begin + timedelta(seconds=anyio.current_time()) + self.wrong_by


class World:
    """Everything but the rules. ``close`` must follow."""

    def __init__(  # noqa: PLR0917 - all of it is drawn
        self,
        dead_blocks: bool,
        max_attempts: int,
        probe: int,
        page: int,
        sole: bool,
        seed: int,
    ) -> None:
        self.clockwork = Clockwork()
        self.wall = Wall()
        self._patches = ExitStack()
        self._patches.enter_context(patch("relay.memory.outbox.datetime", self.wall))
        self._patches.enter_context(patch("relay.engine.deliver.PROBE", probe))
        self._patches.enter_context(patch("relay.core.disposition.UNCAPTURED_LEAST", UNCAPTURED))
        self.faults = Faults()
        self.chance = random.Random(seed)
        self.outbox = MemoryOutbox(dead_blocks=dead_blocks)
        self.server = Server(self.outbox)
        self.broker = MemoryBus()
        self.sole_hold = "stream only" if sole else None
        fates = Fates(
            self.outbox.parked.rows,
            max_attempts=max_attempts,
            uncaptured=UNCAPTURED,
            sole=self.sole_hold,
        )
        self.ledger = Ledger(self.outbox, self.broker, fates, dead_blocks=dead_blocks)
        self.policy = Policy(
            batch_size=min(2, page),
            max_batch_size=page,
            poll_interval=0.5,
            max_retry_delay=2.0,
            max_attempts=max_attempts,
            retention=3.0,
        )
        self.bells: list[FaultyBell] = []
        self.slots: list[Process | None] = [None, None]
        self.heard: list[tuple[Process, Told, int]] = []
        self.writers: list[list[Event] | None] = [None, None, None]

    # Producers and people.

    def write(self, writer: int, writes: list[tuple[str | None, str, str | None]]) -> None:
        """Let a transaction write events of these keys, subjects and idempotency keys."""

        def draw() -> None:
            for key, subject, idempotency_key in writes:
                transaction = self.writers[writer] = self.writers[writer] or []
                payload = b"%d" % self.chance.randrange(10**6)
                transaction.append(
                    self.outbox.draw(subject, payload, key=key, idempotency_key=idempotency_key)
                )

        self.act(draw)

    def commit(self, writer: int) -> None:
        """End a transaction well."""
        events, self.writers[writer] = self.writers[writer], None
        if not events:
            return
        self.ledger.commit(events)
        self.act(lambda: self.outbox.commit(events))
        for bell in self.bells:
            self.act(bell.ring)

    def steal_an_id(self, message_id: str) -> None:
        """Let another client use a message id first."""
        stranger = Event(0, STRANGER, message_id, "a.one", None, datetime.now(UTC), None, b"")

        def steal() -> None:
            self.broker.store(stranger)
            self.ledger.stored()

        self.act(steal)

    def dead(self) -> list[str]:
        """Name the dead events."""
        return [id_ for id_, row in self.outbox.parked.rows.items() if row.dead]

    def decide(self, event_id: str, *, retry: bool) -> None:
        """Decide on a dead event."""
        self.act(lambda: (self.ledger.retry if retry else self.ledger.drop)(event_id))

    # Processes and servers.

    def start(self, slot: int) -> None:
        """Start a relay, unless one runs there."""
        process = self.slots[slot]
        if process is not None and not process.dead:
            return
        process = Process(f"relay {len(self.heard) + 1}")
        process.on_fact = partial(self.ledger.told, process.name)
        bell = FaultyBell(process, self.faults)
        adapters = (
            FaultyOutbox(self.outbox, self.server, process, self.faults, self.ledger),
            FaultyBus(self.broker, process, self.faults, self.ledger, sole_hold=self.sole_hold),
            bell,
        )
        self.act(
            lambda: process.begin(adapters, self.policy, self.chance.random, self.clockwork.nursery)
        )
        self.bells.append(bell)
        self.slots[slot] = process
        self.heard.append((process, Told(max_batch_size=self.policy.max_batch_size), 0))

    def ensure_a_relay(self) -> None:
        """Let those that run go on, and see to it that one does."""
        for process in self.slots:
            if process is not None:
                process.calm_down()
                self.act(process.thaw)
        if all(process is None or process.dead or process.stopping for process in self.slots):
            self.slots = [None, None]
            self.start(0)

    def break_sessions(self) -> None:
        """Break every session, as a restart of the server does."""
        self.faults.session += 1
        self.take_the_lease(ended=True)

    def take_the_lease(self, *, ended: bool) -> None:
        """See ``Server``."""
        self.server.take_the_lease(ended=ended)
        self.ledger.robbed |= {
            epoch for epoch, session in self.server.sessions.items() if session.robbed
        }

    def arrive(self) -> None:
        """Let the first late message arrive."""
        event = self.faults.late.pop(0)
        self.act(lambda: take(self.broker, event, self.faults, self.ledger))

    # Time.

    def act(self, act: Callable[[], object]) -> None:
        """Do something within the run."""

        async def work() -> None:
            act()

        self.clockwork.do(work)

    def run_on(self, ticks: int) -> None:
        """Let everybody take about so many steps, in no time."""

        async def wait() -> None:
            for _ in range(ticks):
                await trio.lowlevel.checkpoint()

        self.clockwork.do(wait)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.clockwork.do(partial(trio.sleep, seconds))

    # The promises.

    def check(self) -> None:
        """Raise whatever is wrong."""
        self.ledger.check()
        assert not self.ledger.violations, self.ledger.violations
        for place, (process, told, heard) in enumerate(self.heard):
            if process.error is not None:
                raise process.error
            for fact in process.facts[heard:]:
                told.hear(fact)
            self.heard[place] = (process, told, len(process.facts))
            assert not told.violations, told.violations

    def the_others_flow(self) -> None:
        """While some streams and rows are struck, everything else arrives in a bounded time."""
        self.faults.passing_ones_end()
        self.ensure_a_relay()
        moods = self.faults.moods

        def strikes(event: Event) -> bool:
            return event.subject in moods or event.event_id in self.faults.unreadable

        for _ in range(LIVE_WITHIN):
            self.sleep(1.0)
            self.check()
            waiting = self.ledger.kept_waiting(strikes)
            if not waiting:
                return
        rows = self.outbox.parked.rows
        raise AssertionError(f"kept waiting: {waiting}; struck: {set(moods)}; parked: {rows}")

    def end_well(self) -> None:
        """Stop all faults; then everything is delivered, and once more when people said so."""
        self.faults.all_end()
        for writer in range(3):
            self.commit(writer)
        self.ensure_a_relay()
        self._until_nothing_is_left()
        while self.faults.late:
            self.arrive()
        while dead := self.dead():  # one that collides behind another dies only now
            for event_id in dead:
                self.decide(event_id, retry=True)
            self._until_nothing_is_left()
            assert not set(dead) & set(self.dead()), "a retry that nothing strikes has failed"
        assert not self.outbox.parked.rows, self.outbox.parked.rows
        for _ in range(REST_WITHIN):
            unsaid = self._unsaid()
            if not unsaid:
                return
            self.sleep(1.0)
            self.check()
        raise AssertionError(unsaid)

    def _unsaid(self) -> list[str]:
        """Name what the living have yet to say now that all is well."""
        unsaid = []
        for process, told, _ in self.heard:
            if process.dead:
                continue
            learnt = self.ledger.learnt_by_the_leader(process.name) - set(self.outbox.learnt)
            unsaid += [f"{process.name}: outage of {side}" for side in told.outages]
            unsaid += [f"{process.name}: hold by {by}" for by in told.holds]
            unsaid += [f"{process.name}: {b}" for b, s in told.breakers.items() if s != "closed"]
            unsaid += [f"{process.name}: {stream} not remembered" for stream in learnt]
        return unsaid

    def close(self) -> None:
        """End the run, and leave nobody frozen in a place from which no cancellation gets him."""

        def let_all_die() -> None:
            for process, _, _ in self.heard:
                process.calm_down()
                process.die()

        self._patches.close()
        self.clockwork.close(let_all_die)

    def _until_nothing_is_left(self) -> None:
        for _ in range(LIVE_WITHIN):
            self.sleep(1.0)
            self.check()
            live = [id_ for id_, row in self.outbox.parked.rows.items() if not row.dead]
            behind_the_dead = self.outbox.parked.blocking and self.dead()
            if not self.ledger.missing() and (not live or behind_the_dead):
                break
        else:
            missing, rows = self.ledger.missing(), self.outbox.parked.rows
            raise AssertionError(f"not delivered: {missing}; parked: {rows}")
        self.sleep(1.5)  # for the last settlement
        self.check()


def same_stream(subject: str, subjects: tuple[str, ...], *, sole: bool) -> list[str]:
    """Return the subjects that go to the same stream as ``subject``."""
    return [each for each in subjects if sole or stream_of(each) == stream_of(subject)]
