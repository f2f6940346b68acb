"""What is so now: what each fact makes of the role, the outages, the holds and the figures."""

import pytest

from relay.core.backoff import State
from relay.core.storage import OutboxStorage, StreamStorage
from relay.facts import (
    BacklogSeen,
    BreakerChanged,
    BusConnected,
    HoldBegan,
    HoldEnded,
    HousekeepingFailed,
    Looked,
    OutageBegan,
    OutageChanged,
    OutageEnded,
    Pruned,
    StandingBy,
    TermBegan,
    TermEnded,
)
from relay.memory import MemoryBus, MemoryOutbox
from relay.ports import Backlog
from relay.settings import Settings
from relay.state import BLIND_AFTER, Ongoing, RelayState, Role

BACKLOG = Backlog(12, 3.5, 4, 1, held=2, held_lag=1.5)


class Recorded(RelayState):
    """A state on a clock of the test's own."""

    def __init__(self) -> None:
        self.clock = 100.0
        super().__init__(now=lambda: self.clock)

    def __call__(self, *facts) -> "Recorded":
        for fact in facts:
            self.record(fact)
        return self


@pytest.fixture
def state() -> Recorded:
    return Recorded()


def test_the_role_follows_the_terms(state: Recorded) -> None:
    assert (state.role, state.holder, state.epoch) == (Role.STARTING, "", 0)
    state(StandingBy("me"))
    assert (state.role, state.holder, state.leading) == (Role.STANDBY, "me", False)
    state(TermBegan("me", 7), BusConnected())
    assert (state.role, state.epoch, state.leading) == (Role.LEADER, 7, True)
    assert state.connected
    state(TermEnded(7, "lost"))
    assert (state.role, state.epoch, state.leading) == (Role.BETWEEN, 7, False)
    assert not state.connected


def test_who_stops_stays_stopping_and_leads_until_the_term_has_ended(state: Recorded) -> None:
    state(TermBegan("me", 1)).stop()
    assert (state.role, state.leading) == (Role.STOPPING, True)
    state(TermEnded(1, ""))
    assert (state.role, state.leading) == (Role.STOPPING, False)
    assert state(TermBegan("me", 2)).role is Role.STOPPING


def test_outages_last_until_they_end_and_a_standby_has_none_of_nats(state: Recorded) -> None:
    state(OutageBegan("postgres", "away"))
    state.clock = 160.0
    state(OutageBegan("nats", "refused"))
    outages = {"postgres": Ongoing(100.0, "away"), "nats": Ongoing(160.0, "refused")}
    assert state.outages == outages
    state(TermEnded(1, ""))
    assert state.outages == outages
    state(OutageChanged("postgres", "the lease is taken"))
    assert state.outages == {**outages, "postgres": Ongoing(100.0, "the lease is taken")}
    state(OutageEnded("postgres", 60.0, 3))
    assert set(state.outages) == {"nats"}
    state(StandingBy("me"))
    assert state.outages == {}


def test_holds_and_failed_housekeeping_end_with_the_term_at_the_latest(state: Recorded) -> None:
    began = [
        HoldBegan("stream A", "full"),
        HoldBegan("stream B", "?"),
        HousekeepingFailed("locked"),
    ]
    state(TermBegan("me", 1), *began, HoldEnded("stream B", 1.0))
    assert state.holds == {"stream A": Ongoing(100.0, "full")}
    assert state.housekeeping == Ongoing(100.0, "locked")
    state(TermEnded(1, ""))
    assert (state.holds, state.housekeeping) == ({}, None)


def test_a_look_at_the_backlog_shows_that_housekeeping_works_again(state: Recorded) -> None:
    state(TermBegan("me", 1), HousekeepingFailed("locked"), Pruned(3))
    assert state.housekeeping is not None
    assert state(BacklogSeen(BACKLOG)).housekeeping is None


def test_looks_fail_once_none_has_succeeded_for_long(state: Recorded) -> None:
    state(TermBegan("me", 1), BacklogSeen(BACKLOG), HousekeepingFailed("no session"))
    assert not state.looks_fail
    state.clock += BLIND_AFTER
    state(HousekeepingFailed("no session", again=True))
    assert state.looks_fail
    state(BacklogSeen(BACKLOG))
    assert not state.looks_fail


def test_the_last_backlog_is_kept_between_terms_but_is_current_in_its_own_alone(
    state: Recorded,
) -> None:
    state(TermBegan("me", 1), BacklogSeen(BACKLOG))
    assert (state.backlog, state.backlog_is_current) == (BACKLOG, True)
    state(TermEnded(1, "lost"))
    assert state.metrics()["delivery_lag_seconds"] == 3.5
    state(TermBegan("me", 2))
    assert (state.backlog, state.backlog_is_current) == (BACKLOG, False)
    state(TermEnded(2, "lost"), StandingBy("me"))
    figures = state.metrics()
    names = ("delivery_lag_seconds", "undelivered", "parked", "dead", "held", "held_lag_seconds")
    assert [figures[name] for name in names] == [0] * 6


def test_sizes_are_those_of_the_term(state: Recorded) -> None:
    outbox, streams = OutboxStorage(1, 2, 3.0, {}), [StreamStorage("ORDERS", 1, 2)]
    state(Looked(outbox), Looked(streams))  # a look that came too late
    assert (state.outbox, state.streams) == (None, ())
    state(TermBegan("me", 1), Looked(outbox), Looked(streams))
    assert (state.outbox, state.streams) == (outbox, tuple(streams))
    state(TermEnded(1, ""))
    assert (state.outbox, state.streams) == (None, ())


def test_what_another_thread_reads_is_replaced_and_never_changed(state: Recorded) -> None:
    before = state.breakers, state.outages, state.holds
    copies = [dict(each) for each in before]
    state(
        BreakerChanged("lag", State.CLOSED, State.OPEN, ""),
        OutageBegan("nats", ""),
        HoldBegan("stream A", ""),
    )
    assert list(before) == copies
    assert state.breakers["lag"] is State.OPEN


def test_a_relay_shows_its_state_and_a_stop_before_the_run_counts() -> None:
    from relay import Relay

    relay = Relay(Settings(), outbox=MemoryOutbox(), bus=MemoryBus())
    assert relay.state.role is Role.STARTING
    relay.stop()
    assert relay.state.role is Role.STOPPING
