"""The state machine: producers, people, faults and time, drawn in any order, around real engines.

    producers   begin, write, commit in any order, roll back
    people      retry and drop the dead
    the store   away and back; a session or a lease lost; a commit's answer lost; retention
    the bus     away and back; messages lost, late, cut off; answers lost; subjects refused, held
    processes   start, stop, die or freeze at a drawn gate, go on after another has led
    clocks      time passes; the wall clock is put forward and back

After every step the promises are checked (see ``ledger`` and ``told``). At the end all faults stop,
and within a bounded time everything has to be where it belongs.
"""

import random
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from unittest.mock import patch

import anyio
import trio
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from relay.core.breakers import State
from relay.core.event import Event
from relay.core.outcome import Held, Refused, Unknown
from relay.memory import MemoryBus, MemoryOutbox
from relay.term import Policy
from tests.model.clockwork import Clockwork
from tests.model.faulty import Faults, FaultyBell, FaultyBus, FaultyOutbox, Wire, take
from tests.model.ledger import Ledger
from tests.model.process import Process
from tests.model.told import Told

LIVE_WITHIN = 40.0
"""Virtual seconds in which all is delivered once the faults have stopped: the longest pause, a
shutdown, a campaign and a few looks at the parked are a fraction of it."""

SUBJECTS = ("a.one", "a.two", "b.one")
BATCH = 4

slots = st.integers(0, 1)
gates = st.integers(0, 12)
subjects = st.sampled_from(SUBJECTS)
few = st.integers(0, 20)


class Wall:
    """The wall clock: virtual time and what it is wrong by."""

    def __init__(self) -> None:
        self.wrong_by = timedelta()

    def now(self, _zone: tzinfo) -> datetime:
        begin = datetime(2026, 1, 1, tzinfo=UTC)
        return begin + timedelta(seconds=anyio.current_time()) + self.wrong_by


class Machine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.clockwork = Clockwork()
        self.wall = Wall()
        self._patch = patch("relay.memory.outbox.datetime", self.wall)
        self._patch.start()
        self.faults = Faults()
        self.bells: list[FaultyBell] = []
        self.slots: list[Process | None] = [None, None]
        self.heard: list[tuple[Process, Told, int]] = []
        self.writers: list[list[Event] | None] = [None, None, None]
        self.processes = 0

    @initialize(
        dead_blocks=st.booleans(), max_attempts=st.integers(1, 3), seed=st.integers(0, 2**16)
    )
    def begin(self, dead_blocks: bool, max_attempts: int, seed: int) -> None:
        self.chance = random.Random(seed)
        self.outbox = MemoryOutbox(dead_blocks=dead_blocks)
        self.broker = MemoryBus()
        self.ledger = Ledger(
            self.outbox, self.broker, max_attempts=max_attempts, dead_blocks=dead_blocks
        )
        self.policy = Policy(
            batch_size=2,
            max_batch_size=BATCH,
            poll_interval=0.5,
            max_retry_delay=2.0,
            max_attempts=max_attempts,
            retention=3.0,
        )
        self._start(0)
        self._run_on(20)

    # Producers.

    @rule(
        writer=st.integers(0, 2),
        writes=st.lists(
            st.tuples(st.sampled_from(["k", "k", "l", None]), subjects), min_size=1, max_size=5
        ),
        commit=st.sampled_from([True, True, False]),
        ticks=few,
    )
    def write(
        self, writer: int, writes: list[tuple[str | None, str]], commit: bool, ticks: int
    ) -> None:
        async def draw() -> None:
            for key, subject in writes:
                transaction = self.writers[writer] = self.writers[writer] or []
                payload = b"%d" % self.chance.randrange(10**6)
                transaction.append(self.outbox.draw(subject, payload, key=key))

        self.clockwork.do(draw)
        if commit:
            self._commit(writer)
        self._run_on(ticks)

    @precondition(lambda self: any(self.writers))
    @rule(which=st.integers(0, 2), commit=st.sampled_from([True, True, False]), ticks=few)
    def end_transaction(self, which: int, commit: bool, ticks: int) -> None:
        open_ = [writer for writer, events in enumerate(self.writers) if events]
        writer = open_[which % len(open_)]
        if commit:
            self._commit(writer)
        self.writers[writer] = None
        self._run_on(ticks)

    # People.

    @precondition(lambda self: self._dead())
    @rule(which=st.integers(0, 5), retry=st.booleans(), ticks=few)
    def decide_on_a_dead_one(self, which: int, retry: bool, ticks: int) -> None:
        dead = self._dead()
        self._decide(dead[which % len(dead)], retry)
        self._run_on(ticks)

    # The bus.

    @rule(away=st.booleans(), ticks=few)
    def lose_or_find_the_bus(self, away: bool, ticks: int) -> None:
        self.faults.bus_away = away
        self._run_on(ticks)

    @rule(wire=st.lists(st.sampled_from(Wire), min_size=1, max_size=4))
    def spoil_the_wire(self, wire: list[Wire]) -> None:
        self.faults.wire = wire

    @rule(
        subject=subjects,
        mood=st.sampled_from(["fine", "refused", "held", "held alone", "unknown"]),
        ticks=few,
    )
    def change_what_a_subject_gets(self, subject: str, mood: str, ticks: int) -> None:
        stream = subject.partition(".")[0]
        answers = {
            "refused": Refused("too large", 10054),
            "held": Held(f"stream {stream}", "full", 10077),
            "held alone": Held(f"stream {stream}", "full", 10077, alone=True),
            "unknown": Unknown("something new", 777),
        }
        self.faults.moods.pop(subject, None)
        if mood in answers:
            self.faults.moods[subject] = answers[mood]
        self._run_on(ticks)

    @precondition(lambda self: self.faults.late)
    @rule(ticks=few)
    def let_a_late_message_arrive(self, ticks: int) -> None:
        self._arrive()
        self._run_on(ticks)

    # The store.

    @rule(away=st.booleans(), ticks=few)
    def lose_or_find_the_store(self, away: bool, ticks: int) -> None:
        self.faults.store_away = away
        if away:
            self._break_sessions()
        self._run_on(ticks)

    @rule(how=st.sampled_from(["session", "lease", "answer", "bell"]), ticks=few)
    def spoil_the_store(self, how: str, ticks: int) -> None:
        if how == "session":
            self._break_sessions()
        elif how == "lease":  # the server forgets it; the session goes on, and knows nothing
            self.outbox.leader = None
        elif how == "answer":
            self.faults.commits_unheard = 1
        else:
            self.faults.deaf = not self.faults.deaf
        self._run_on(ticks)

    # Processes.

    @rule(slot=slots, ticks=few)
    def start(self, slot: int, ticks: int) -> None:
        process = self.slots[slot]
        if process is None or process.dead:
            self._start(slot)
        self._run_on(ticks)

    @rule(slot=slots, after=gates, ticks=few)
    def kill(self, slot: int, after: int, ticks: int) -> None:
        process = self.slots[slot]
        if process is not None and not process.dead:
            self._do(lambda: process.die(after))
        self._run_on(ticks)

    @rule(slot=slots, after=gates, ticks=few)
    def freeze_or_thaw(self, slot: int, after: int, ticks: int) -> None:
        process = self.slots[slot]
        if process is not None and process.frozen:
            self._do(process.thaw)
        elif process is not None:
            process.freeze(after)
        self._run_on(ticks)

    @rule(slot=slots, ticks=few)
    def stop(self, slot: int, ticks: int) -> None:
        process = self.slots[slot]
        if process is not None:
            self._do(process.stop)
        self._run_on(ticks)

    # Time.

    @rule(seconds=st.sampled_from([0.01, 0.06, 0.25, 1.0, 4.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.clockwork.do(partial(trio.sleep, seconds))

    @rule(ticks=st.integers(1, 100))
    def go_on(self, ticks: int) -> None:
        self._run_on(ticks)

    @rule(seconds=st.sampled_from([-3600, -5, 5, 3600]))
    def set_the_wall_clock(self, seconds: float) -> None:
        self.wall.wrong_by += timedelta(seconds=seconds)

    # The promises.

    @invariant()
    def the_promises_hold(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.ledger.check()
        assert not self.ledger.violations, self.ledger.violations
        for place, (process, told, heard) in enumerate(self.heard):
            if process.error is not None:
                raise process.error
            for fact in process.facts[heard:]:
                told.hear(fact)
            self.heard[place] = (process, told, len(process.facts))
            assert not told.violations, told.violations

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None and hasattr(self, "ledger"):
                self._end_well()
        finally:
            self._patch.stop()
            self.clockwork.close(self._let_all_die)

    def _end_well(self) -> None:
        """Stop all faults; then everything is delivered, and once more when people said so."""
        self.faults.store_away = self.faults.bus_away = self.faults.deaf = False
        self.faults.commits_unheard = 0
        self.faults.wire.clear()
        self.faults.moods.clear()
        for writer in range(3):
            self._commit(writer)
        for process in self.slots:
            if process is not None:
                process.calm_down()
                self._do(process.thaw)
        if all(process is None or process.dead or process.stopping for process in self.slots):
            self.slots = [None, None]
            self._start(0)
        self._until_nothing_is_left()
        while self.faults.late:
            self._arrive()
        for id_ in self._dead():
            self._decide(id_, retry=True)
        self._until_nothing_is_left()
        assert not self.outbox.parked.rows, self.outbox.parked.rows
        for process, told, _ in self.heard:
            if not process.dead:
                assert not told.outages, (process.name, told.outages)
                assert not told.holds, (process.name, told.holds)
                assert set(told.breakers.values()) == {State.CLOSED}, told.breakers

    def _let_all_die(self) -> None:
        """Leave nobody frozen in a place from which no cancellation gets him."""
        for process, _, _ in self.heard:
            process.calm_down()
            process.die()

    def _until_nothing_is_left(self) -> None:
        for _ in range(int(LIVE_WITHIN)):
            self.clockwork.do(partial(trio.sleep, 1.0))
            self.the_promises_hold()
            live = [id_ for id_, row in self.outbox.parked.rows.items() if not row.dead]
            behind_the_dead = self.outbox.parked.blocking and self._dead()
            if not self.ledger.missing() and (not live or behind_the_dead):
                break
        else:
            raise AssertionError(
                f"not delivered: {self.ledger.missing()}; parked: {self.outbox.parked.rows}"
            )
        self.clockwork.do(partial(trio.sleep, 3.0))  # for the last settlement and the last words
        self.the_promises_hold()

    # Helpers.

    def _start(self, slot: int) -> None:
        self.processes += 1
        process = Process(f"relay {self.processes}")
        bell = FaultyBell(process, self.faults)

        async def begin() -> None:
            process.begin(
                (
                    FaultyOutbox(self.outbox, process, self.faults, self.ledger),
                    FaultyBus(self.broker, process, self.faults, self.ledger),
                    bell,
                ),
                self.policy,
                self.chance.random,
                self.clockwork.nursery,
            )

        self.clockwork.do(begin)
        self.bells.append(bell)
        self.slots[slot] = process
        self.heard.append((process, Told(max_batch_size=BATCH), 0))

    def _run_on(self, ticks: int) -> None:
        """Let everybody take about so many steps, in no time."""

        async def wait() -> None:
            for _ in range(ticks):
                await trio.lowlevel.checkpoint()

        self.clockwork.do(wait)

    def _do(self, act: Callable[[], object]) -> None:
        async def work() -> None:
            act()

        self.clockwork.do(work)

    def _commit(self, writer: int) -> None:
        events, self.writers[writer] = self.writers[writer], None
        if not events:
            return
        self.ledger.commit(events)
        self._do(lambda: self.outbox.commit(events))
        for bell in self.bells:
            self._do(bell.ring)

    def _dead(self) -> list[int]:
        if not hasattr(self, "outbox"):
            return []
        return [id_ for id_, row in self.outbox.parked.rows.items() if row.dead]

    def _decide(self, id_: int, retry: bool) -> None:
        self._do(lambda: (self.ledger.retry if retry else self.ledger.drop)(id_))

    def _arrive(self) -> None:
        event = self.faults.late.pop(0)

        async def arrive() -> None:
            await take(self.broker, event, self.faults, self.ledger)

        work: Callable[[], Awaitable[None]] = arrive
        self.clockwork.do(work)

    def _break_sessions(self) -> None:
        self.faults.session += 1
        self.outbox.leader = None
