"""What the facts add up to: conditions, reasons, and the summary for a person."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from relay.core.backoff import State
from relay.facts import (
    BacklogSeen,
    BreakerChanged,
    BusConnected,
    Fact,
    HoldBegan,
    HoldEnded,
    HousekeepingFailed,
    OutageBegan,
    OutageEnded,
    PageDelivered,
    StandingBy,
    TermBegan,
    TermEnded,
)
from relay.http.database import Database
from relay.http.feed import Feed
from relay.http.health import (
    LEASE,
    SCHEMA,
    STALE_AFTER,
    UNKNOWN,
    Health,
    Latency,
    reason_of,
)
from relay.http.page_state import POINTS, PageState
from relay.http.summary import LeaderReport, Level, summarize
from relay.ports import Backlog
from relay.settings import Settings
from relay.state import RelayState
from tests.http.test_parts import Idle

LEADS = (TermBegan("me:1:x", 3), BusConnected())
STANDS_BY = (StandingBy("me:1:x"),)
LATE = (
    BacklogSeen(Backlog(5, 7.25, 0)),
    BreakerChanged("lag", State.CLOSED, State.OPEN, "old"),
)


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def healthy(*facts: Fact) -> Health:
    return health_at(Clock(), *facts)


def health_at(clock: Clock, *facts: Fact) -> Health:
    state = RelayState(clock)
    for fact in facts:
        state.record(fact)
    return Health(state, clock)


def failing(health: Health) -> dict[str, str]:
    return {check.name: check.reason for check in health.checks() if not check.ok}


@pytest.mark.parametrize("facts", [LEADS, STANDS_BY, (*LEADS, TermEnded(3, ""), *STANDS_BY)])
def test_a_leader_at_work_and_a_standby_are_ready(facts: tuple[Fact, ...]) -> None:
    health = healthy(*facts)
    assert health.is_ready
    assert failing(health) == {}


@pytest.mark.parametrize(
    ("facts", "reasons"),
    [
        (
            (),
            {
                "postgres": "not reached yet",
                "schema": "not looked at yet",
                "lease": "neither leading nor standing by yet",
            },
        ),
        ((TermBegan("me", 1),), {"nats": "connecting"}),
        ((*LEADS, *LATE), {"lag": "the breaker is open: the oldest event waits for 7.2 s"}),
        (
            (*LEADS, OutageBegan("nats", "a:4222: [Errno 111] Connect call failed")),
            {"nats": "away for 0 s: connection refused"},
        ),
        (
            (*LEADS, TermEnded(3, "x"), OutageBegan("postgres", "server closed the connection")),
            {
                "postgres": "away for 0 s: the connection was cut",
                "lease": "the last term is over, the next one has not begun",
            },
        ),
        (
            (
                *STANDS_BY,
                OutageBegan("postgres", "schema x lacks 1: run `python -m relay migrate`"),
            ),
            {"schema": SCHEMA},
        ),
    ],
)
def test_who_is_not_ready_says_why(facts: tuple[Fact, ...], reasons: dict[str, str]) -> None:
    health = healthy(*facts)
    assert not health.is_ready
    assert failing(health) == reasons


def test_a_leader_that_can_t_look_at_its_backlog_is_not_ready() -> None:
    clock = Clock()
    health = health_at(clock, *LEADS, HousekeepingFailed("FATAL: too many connections"))
    assert health.is_ready
    clock.now += 29
    assert health.is_ready
    clock.now += 1
    reason = "not known for 30 s: it has no connection left for us"
    assert failing(health) == {"lag": reason}
    health.state.record(BacklogSeen(Backlog(0, 0.0, 0)))
    assert health.is_ready


TAKEN = (
    "the lease of schema s is held by a session that is no relay's: pid 4711, login m; end it",
    "the lease of schema s is held by a session that is no relay's: a prepared transaction; end it",
    "LeaseTaken: the lease's lock is held by session 4711 of mallory, which is no relay",
)


@pytest.mark.parametrize("reason", TAKEN)
@pytest.mark.parametrize("before", [(), STANDS_BY, (*LEADS, TermEnded(3, ""))])
def test_a_stranger_who_holds_the_lease_makes_it_not_ready_and_is_named(
    before: tuple[Fact, ...], reason: str
) -> None:
    health = healthy(*before, OutageBegan("postgres", reason))
    assert not health.is_ready
    checks = {check.name: check for check in health.checks()}
    assert checks["postgres"].ok
    assert checks["lease"].reason == f"for 0 s {LEASE}"
    summary = summarize(health, dead=0)
    assert (summary.level, summary.headline) == (
        Level.OUTAGE,
        "Outage: a stranger holds the lease",
    )
    assert summary.reasons[0] == f"Nobody can lead: {LEASE}."
    assert not any("away" in each for each in summary.reasons)
    health.state.record(OutageEnded("postgres", 3.0, 2))
    health.state.record(StandingBy("me"))
    assert health.is_ready


def test_both_a_taken_lease_and_nats_away_are_told() -> None:
    health = healthy(*LEADS, OutageBegan("nats", "x"), OutageBegan("postgres", TAKEN[0]))
    assert set(failing(health)) == {"lease", "nats"}
    assert "NATS is away" in summarize(health, dead=0).reasons[1]


@pytest.mark.parametrize(
    "reason",
    ["Postgres did not answer within 8 s", "canceling statement due to lock timeout", "released"],
)
def test_another_outage_of_postgres_is_no_taken_lease(reason: str) -> None:
    assert not healthy(OutageBegan("postgres", reason)).lease_is_taken


def test_an_outage_counts_its_time_and_is_over_when_it_ends() -> None:
    clock = Clock()
    health = health_at(clock, *LEADS, OutageBegan("nats", "did not answer"))
    told = []
    for clock.now in (1012.9, 1075.0, 1000.0 + 2 * 3600 + 5 * 60):
        told.append(failing(health)["nats"].partition(":")[0])
    assert told == ["away for 12 s", "away for 1 min 15 s", "away for 2 h 5 min"]
    health.state.record(OutageEnded("nats", 75.0, 3))
    assert health.is_ready


def test_a_standby_does_not_ask_nats_and_a_new_term_has_to_connect_anew() -> None:
    health = healthy(*LEADS, OutageBegan("nats", "x"), TermEnded(3, ""), *STANDS_BY)
    assert health.is_ready
    health.state.record(TermBegan("me", 5))
    assert failing(health) == {"nats": "connecting"}


def test_who_is_told_to_stop_is_not_ready_whatever_comes_after() -> None:
    health = healthy(*LEADS)
    health.state.stop()
    health.state.record(TermEnded(3, ""))
    assert failing(health) == {"lease": "stopping"}
    assert summarize(health, dead=0).headline == "Stopping"


@pytest.mark.parametrize(
    ("facts", "level", "headline", "reason"),
    [
        ((), Level.STARTING, "Starting", "neither led"),
        (LEADS, Level.HEALTHY, "Healthy", "leads and delivers"),
        (STANDS_BY, Level.HEALTHY, "Standing by", "takes over"),
        ((*LEADS, *LATE), Level.DEGRADED, "Degraded: events are late", "waits for 7.2 s"),
        (
            (*LEADS, HoldBegan("stream S", "stream S has no leader")),
            Level.DEGRADED,
            "Degraded: a stream takes nothing",
            "Stream S takes nothing for 0 s",
        ),
        (
            (*LEADS, HousekeepingFailed("did not answer")),
            Level.DEGRADED,
            "Degraded: housekeeping fails",
            "it does not answer",
        ),
        ((*LEADS, TermEnded(3, "")), Level.DEGRADED, "Between two terms", "tries again"),
        (
            (*LEADS, OutageBegan("nats", "Connection refused")),
            Level.OUTAGE,
            "Outage: NATS is away",
            "NATS is away for 0 s: connection refused",
        ),
        (
            (OutageBegan("postgres", "x"), OutageBegan("nats", "x")),
            Level.OUTAGE,
            "Outage: Postgres and NATS are away",
            "Nothing is lost",
        ),
    ],
)
def test_the_verdict_is_one_word_and_the_reasons(
    facts: tuple[Fact, ...], level: Level, headline: str, reason: str
) -> None:
    summary = summarize(healthy(*facts), dead=0)
    assert (summary.level, summary.headline) == (level, headline)
    assert any(reason in said for said in summary.reasons), summary.reasons


def test_dead_events_are_a_person_s_affair_and_parked_ones_are_not() -> None:
    summary = summarize(healthy(*LEADS), dead=0, parked=2)
    assert summary.level is Level.HEALTHY
    assert "2 parked events are tried again" in summary.reasons[-1]
    summary = summarize(healthy(*LEADS), dead=1, parked=1)
    assert (summary.level, summary.headline) == (
        Level.DEGRADED,
        "Degraded: dead events wait for you",
    )
    assert summary.reasons[-1] == "1 event is dead and waits for a person: retry or drop."


def test_a_standby_tells_what_the_leader_reports() -> None:
    health = healthy(*STANDS_BY)
    late, away = LeaderReport(lag_is_high=True), LeaderReport(lag_is_high=True, nats_is_away=True)
    assert summarize(health, dead=0, report=late).headline == "Degraded: the leader is late"
    assert summarize(health, dead=0, report=away).level is Level.OUTAGE


def test_what_is_over_is_not_told_any_more() -> None:
    health = healthy(
        *LEADS,
        HoldBegan("stream S", "x"),
        HoldEnded("stream S", 1.0),
        HousekeepingFailed("x"),
        *LATE,
        BreakerChanged("lag", State.OPEN, State.CLOSED, "x"),
    )
    assert summarize(health, dead=0).headline == "Healthy"
    health.state.record(HoldBegan("stream S", "x"))
    health.state.record(TermEnded(3, ""))
    health.state.record(TermBegan("me", 4))
    assert summarize(health, dead=0).headline == "Healthy"


SECRET = "s3cr3t-name"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            f'connection to server at "{SECRET}" (10.0.0.1), port 5432 failed: Connection refused',
            "connection refused",
        ),
        (f"{SECRET}:4222: Multiple exceptions: Connect call failed", "connection refused"),
        (f'FATAL: password authentication failed for user "{SECRET}"', "it refuses the login"),
        (f'FATAL: database "{SECRET}" does not exist', "it refuses the login"),
        (f"{SECRET}: Authorization Violation", "it refuses the login"),
        (f'could not translate host name "{SECRET}" to address', "its name can't be resolved"),
        ("FATAL: the database system is starting up", "it is starting up"),
        ("FATAL: the database system is shutting down", "it is shutting down"),
        (f"{SECRET}: no connection within 2 s", "it does not answer"),
        ("Postgres did not answer within 8 s", "it does not answer"),
        ("session is read-only", "it is read-only: a standby, or a demoted primary"),
        ("FATAL: sorry, too many clients already", "it has no connection left for us"),
        (f"there is no stream {SECRET}: create it", "the stream is missing"),
        (f"SSL error: certificate of {SECRET}", "no encrypted connection comes about"),
        (f"permission denied for table {SECRET}: grant this login", "its login may not do this"),
        ("terminating connection due to administrator command", "the connection was cut"),
        (f"nobody knows {SECRET}", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_a_driver_s_text_becomes_words_of_our_own(said: str, words: str) -> None:
    assert reason_of(said) == words
    assert SECRET not in words


def test_the_loop_is_alive_as_long_as_it_turns() -> None:
    clock = Clock()
    health = health_at(clock)
    clock.now += STALE_AFTER - 0.1
    assert health.is_alive
    clock.now += 0.2
    assert not health.is_alive
    assert health.last_turn_ago == pytest.approx(STALE_AFTER + 0.1)
    health.turn()
    assert health.is_alive


def delivered(age: float, events: int = 1) -> PageDelivered:
    return PageDelivered(events, 0, 0, 0.001, datetime.now(UTC) - timedelta(seconds=age))


def test_the_latency_is_that_of_each_page_s_oldest_event() -> None:
    latency = Latency()
    assert latency.take() == (None, None)
    for age in (1.0, 2.0, 9.0):
        latency.record(delivered(age))
    latency.record(delivered(100.0, events=0))
    typical, slowest = latency.take()
    assert (typical, slowest) == (pytest.approx(2.0, abs=0.1), pytest.approx(9.0, abs=0.1))
    assert latency.take() == (None, None)
    latency.record(delivered(-5.0))
    assert latency.take() == (0.0, 0.0)


def test_many_pages_a_second_and_a_long_life_take_no_more_memory() -> None:
    latency = Latency()
    for _ in range(5_000):
        latency.record(delivered(0.0))
    assert len(latency._samples) == 1_000
    clock, feed = Clock(-1.0), Feed()
    database = Database("", "relay", feed)
    parts = {"database": database, "feed": feed, "settings": Settings()}
    state = PageState(Idle(), healthy(*LEADS), latency, clock=clock, now=clock, **parts)
    for _ in range(2 * POINTS):
        clock.now += 1.0
        state.tick()
    history = state.greeting().decode().split("\n")[1].removeprefix("data: ")
    points = json.loads(history)["history"]
    assert len(points) == POINTS
    assert points[-1] == [599.0, 0.0, 0.0, None, None, "healthy"]
