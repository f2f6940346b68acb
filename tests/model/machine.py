"""The state machine: producers, people, faults and time, drawn in any order, around real engines.

    producers   begin, write, commit in any order, roll back; rows that can't be read
    people      retry and drop the dead; other clients use an id first
    the store   away and back; a session or a lease lost; a commit's answer lost; no room, no lock
    the bus     away and back; messages lost, late, cut off; answers lost or wrong; subjects
                refused, held, flapping, not captured, answered by errors that nobody knows
    calls       late by drawn times, on the way there or back
    processes   start, stop, die noticed or not, freeze at a drawn gate for a drawn time, wake
    clocks      time passes; the wall clock is put forward and back

After every step the promises are checked (see ``ledger``, ``fates`` and ``told``), and now and then
that nothing waits for what is not its own. At the end all faults stop: see ``world``.
"""

import sys
from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from relay.core.outcome import Fault, Held, Outcome, Refused, Unknown
from relay.errors import StoreBusy, StoreFull
from tests.model.bus import stream_of
from tests.model.faults import Delay, Mood, Wire
from tests.model.world import World, same_stream

SUBJECTS = ("a.one", "a.two", "b.one")
CALLS = (
    *("settle", "look", "publish", "due", "blocked", "read") * 3,
    *("renew", "watch", "tend", "connect", "campaign", "streams", "keep streams", "report"),
)

slots = st.integers(0, 1)
gates = st.integers(0, 12)
subjects = st.sampled_from(SUBJECTS)
few = st.integers(0, 20)
seconds_late = st.sampled_from([0.0, 0.02, 0.3, 1.1, 2.5, 4.5])
keys = st.sampled_from(["k", "k", "l", None])
written = st.lists(st.tuples(keys, subjects), max_size=6)
passing = st.sampled_from([0.0, 0.3, 1.5, 4.0])

Written = list[tuple[str | None, str]]


class Machine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.world: World | None = None

    @initialize(
        dead_blocks=st.booleans(),
        max_attempts=st.integers(1, 3),
        probe=st.integers(1, 3),
        page=st.integers(1, 6),
        sole=st.sampled_from([False, False, True]),
        seed=st.integers(0, 2**16),
    )
    def begin(  # noqa: PLR0917 - all of it is drawn
        self, dead_blocks: bool, max_attempts: int, probe: int, page: int, sole: bool, seed: int
    ) -> None:
        self.world = World(dead_blocks, max_attempts, probe, page, sole, seed)
        self.world.start(0)
        self.world.run_on(20)

    @property
    def at(self) -> World:
        assert self.world is not None
        return self.world

    # Producers.

    @rule(
        writer=st.integers(0, 2),
        writes=written,
        commit=st.sampled_from([True, True, False]),
        ticks=few,
    )
    def write(self, writer: int, writes: Written, commit: bool, ticks: int) -> None:
        self.at.write(writer, [(key, subject, None) for key, subject in writes])
        if commit:
            self.at.commit(writer)
        self.at.run_on(ticks)

    @rule(number=st.integers(0, 3), key=keys, subject=subjects, stolen=st.booleans())
    def write_with_an_id_of_the_producer_s(
        self, number: int, key: str | None, subject: str, stolen: bool
    ) -> None:
        message_id = f"order-{number}"
        used = {event.message_id for event in self.at.ledger.committed}
        used |= {event.message_id for events in self.at.writers for event in events or ()}
        if message_id in used:  # unique in the outbox
            return
        if stolen:
            self.at.steal_an_id(message_id)
        self.at.write(0, [(key, subject, message_id)])
        self.at.commit(0)

    @precondition(lambda self: any(self.at.writers))
    @rule(which=st.integers(0, 2), commit=st.sampled_from([True, True, False]), ticks=few)
    def end_transaction(self, which: int, commit: bool, ticks: int) -> None:
        open_ = [writer for writer, events in enumerate(self.at.writers) if events]
        writer = open_[which % len(open_)]
        if commit:
            self.at.commit(writer)
        self.at.writers[writer] = None
        self.at.run_on(ticks)

    @precondition(lambda self: self.at.ledger.committed)
    @rule(back=st.integers(0, 5), readable=st.booleans(), ticks=few)
    def spoil_or_mend_a_row(self, back: int, readable: bool, ticks: int) -> None:
        event = self.at.ledger.committed[-1 - back % len(self.at.ledger.committed)]
        if readable:
            self.at.faults.unreadable.clear()
        else:
            self.at.faults.unreadable.add(event.event_id)
        self.at.run_on(ticks)

    # People.

    @precondition(lambda self: self.at.dead())
    @rule(which=st.integers(0, 5), retry=st.booleans(), ticks=few)
    def decide_on_a_dead_one(self, which: int, retry: bool, ticks: int) -> None:
        dead = self.at.dead()
        self.at.decide(dead[which % len(dead)], retry=retry)
        self.at.run_on(ticks)

    # The bus.

    @rule(side=st.sampled_from(["bus", "store"]), away=st.booleans(), seconds=passing)
    def lose_or_find_a_side(self, side: str, away: bool, seconds: float) -> None:
        if side == "bus":
            self.at.faults.bus_away = away
        else:
            self.at.faults.store_away = away
            if away:
                self.at.break_sessions()
        self.at.sleep(seconds)

    @rule(
        wire=st.lists(st.sampled_from(Wire), min_size=1, max_size=4),
        times=st.sampled_from([1, 1, 6]),
        writes=written,
        seconds=passing,
    )
    def spoil_the_wire(self, wire: list[Wire], times: int, writes: Written, seconds: float) -> None:
        self.at.faults.wire = wire * times
        self._commit(writes, seconds)

    @rule(
        subject=subjects,
        mood=st.sampled_from(
            ["fine", "refused", "held", "held partly", "silent", "unknown", "flaps", "nowhere"]
        ),
        writes=written,
        seconds=passing,
    )
    def change_what_a_subject_gets(
        self, subject: str, mood: str, writes: Written, seconds: float
    ) -> None:
        stream = stream_of(subject)
        held = Held(self.at.sole_hold or f"stream {stream}", "full", 10077)
        silent = Held(f"silent subjects of {stream}", "no answer")
        moods: dict[str, tuple[Outcome | None, ...]] = {
            "refused": (Refused("too large", 10054),),
            "held": (held,),
            "held partly": (Held(f"full subjects of {stream}", "full", 10077),),
            "silent": (silent,),
            "unknown": (Unknown("something new", 777),),
            "flaps": (None, held, silent, None, None, Unknown("no answer")),
            "nowhere": (Refused("no stream captures it", 503, Fault.UNCAPTURED),),
        }
        whole = mood in ("held", "nowhere", "fine", "flaps")
        all_of_it = same_stream(subject, SUBJECTS, sole=self.at.sole_hold is not None)
        for each in all_of_it if whole else [subject]:
            self.at.faults.moods.pop(each, None)
            if mood in moods:
                self.at.faults.moods[each] = Mood(moods[mood], nowhere=mood == "nowhere")
        self._commit(writes, seconds)

    @precondition(lambda self: self.at.faults.late)
    @rule(ticks=few)
    def let_a_late_message_arrive(self, ticks: int) -> None:
        self.at.arrive()
        self.at.run_on(ticks)

    # The store.

    @rule(
        how=st.sampled_from(["session", "lease", "answer", "bell", "busy", "full"]),
        writes=written,
        seconds=passing,
    )
    def spoil_the_store(self, how: str, writes: Written, seconds: float) -> None:
        if how == "session":
            self.at.break_sessions()
        elif how == "lease":  # a failover: the session goes on, and knows nothing
            self.at.take_the_lease(ended=False)
        elif how == "answer":
            self.at.faults.commits_unheard = 1
        elif how == "bell":
            self.at.faults.deaf = not self.at.faults.deaf
        else:
            error = StoreBusy("lock timeout") if how == "busy" else StoreFull("no space left")
            self.at.faults.unwilling = [error, error]
        self._commit(writes, seconds)

    @rule(
        calls=st.lists(st.sampled_from(CALLS), min_size=1, max_size=3),
        before=seconds_late,
        after=seconds_late,
        writes=written,
        seconds=passing,
    )
    def be_late(
        self, calls: list[str], before: float, after: float, writes: Written, seconds: float
    ) -> None:
        for call in calls:
            self.at.faults.delays[call] = [Delay(before, after)] * 2
        self._commit(writes, seconds)

    # Processes.

    @rule(
        slot=slots,
        what=st.sampled_from(["start", "start", "stop", "kill", "vanish", "freeze", "thaw"]),
        after=gates,
        ticks=few,
    )
    def do_with_a_relay(self, slot: int, what: str, after: int, ticks: int) -> None:
        process = self.at.slots[slot]
        if what == "start":
            self.at.start(slot)
        elif process is not None and not process.dead:
            self.at.act(
                {
                    "stop": process.stop,
                    "kill": lambda: process.die(after),
                    "vanish": lambda: process.die(after, noticed=False),
                    "freeze": lambda: process.freeze(after),
                    "thaw": process.thaw,
                }[what]
            )
        self.at.run_on(ticks)

    @rule(
        slot=slots,
        after=gates,
        seconds=st.sampled_from([0.5, 3.0, 4.5, 7.0]),
        writes=written,
        ticks=few,
    )
    def stand_still(
        self, slot: int, after: int, seconds: float, writes: Written, ticks: int
    ) -> None:
        """One relay stands still, the other may take over, the first one wakes."""
        process = self.at.slots[slot]
        if process is None or process.dead:
            return
        self.at.start(1 - slot)
        process.freeze(after)
        self._commit(writes, seconds)
        self.at.act(process.thaw)
        self.at.run_on(ticks)

    # Time.

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.06, 0.25, 1.0, 4.0]), ticks=st.integers(0, 100))
    def let_time_pass(self, seconds: float, ticks: int) -> None:
        self.at.sleep(seconds)
        self.at.run_on(ticks)

    @rule(seconds=st.sampled_from([-3600, -5, 5, 3600]))
    def set_the_wall_clock(self, seconds: float) -> None:
        self.at.wall.wrong_by += timedelta(seconds=seconds)

    def _commit(self, writes: Written, seconds: float) -> None:
        """Have events committed at once, and let time pass."""
        self.at.write(2, [(key, subject, None) for key, subject in writes])
        self.at.commit(2)
        self.at.sleep(seconds)

    # The promises.

    @rule()
    def the_others_flow(self) -> None:
        self.at.the_others_flow()

    @invariant()
    def the_promises_hold(self) -> None:
        if self.world is not None:
            self.world.check()

    def teardown(self) -> None:
        if self.world is None:
            return
        try:
            if sys.exc_info()[0] is None:
                self.world.end_well()
        finally:
            self.world.close()
