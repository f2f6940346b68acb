"""What the page says of the disk while events pile up."""

import pytest

from relay.facts import Fact, HoldBegan, OutageBegan
from relay.http.database import GROWTH_OVER, LOOK_EVERY, Database
from relay.http.feed import Feed
from relay.http.summary import LeaderReport, OutboxSize, in_bytes, summarize
from tests.http.test_health import LATE, LEADS, STANDS_BY, Clock, health_at, healthy

GROWS = OutboxSize(3_100_000_000, 1_250_000.0)


def test_while_nats_is_away_the_page_says_how_long_and_how_fast_the_outbox_grows() -> None:
    clock = Clock()
    health = health_at(clock, *LEADS, OutageBegan("nats", "did not answer"))
    clock.now += 41 * 60
    assert summarize(health, dead=0, outbox=GROWS).reasons == (
        "NATS is away for 41 min 0 s: it does not answer.",
        "Nothing is lost: events wait in the outbox, and delivery goes on by itself.",
        "The outbox takes 3.1 GB and grows by 75.0 MB a minute: 7.6 GB in an hour.",
    )


@pytest.mark.parametrize(
    ("growth", "said"),
    [
        (None, "The outbox takes 3.1 GB; how fast it grows is known in some seconds."),
        (0.0, "The outbox takes 3.1 GB and has not grown lately."),
        (-5.0, "The outbox takes 3.1 GB and has not grown lately."),
    ],
)
def test_what_is_not_known_or_does_not_grow_is_said_so(growth: float | None, said: str) -> None:
    size = OutboxSize(GROWS.size, growth)
    assert said in summarize(healthy(*LEADS, *LATE), dead=0, outbox=size).reasons


@pytest.mark.parametrize(
    ("facts", "report", "is_said"),
    [
        (LEADS, LeaderReport(), False),
        (STANDS_BY, LeaderReport(), False),
        ((*LEADS, *LATE), LeaderReport(), True),
        ((*LEADS, HoldBegan("stream S", "full")), LeaderReport(), True),
        (STANDS_BY, LeaderReport(lag_is_high=True), True),
        (STANDS_BY, LeaderReport(nats_is_away=True), True),
    ],
)
def test_it_is_said_only_where_events_pile_up(
    facts: tuple[Fact, ...], report: LeaderReport, is_said: bool
) -> None:
    for size in (GROWS, None):
        said = summarize(healthy(*facts), dead=0, report=report, outbox=size).reasons
        assert any("The outbox takes" in each for each in said) is (is_said and size is not None)


def test_growth_is_that_of_the_last_minute_and_unknown_before() -> None:
    database = Database("", "relay", Feed())
    sizes = [database._size(each * LOOK_EVERY, 1_000 + each * 100) for each in range(6)]
    assert [each.growth for each in sizes] == [None] * 5 + [50.0]
    for each in range(6, 100):
        size = database._size(each * LOOK_EVERY, 1_500)
    assert size == OutboxSize(1_500, 0.0), "what grew before is forgotten"
    assert len(database._sizes) <= GROWTH_OVER / LOOK_EVERY + 2
    again = database._size(10_000.0, 9_000)
    assert again.growth is None, "nobody watched: what was before is no measure"


def test_bytes_are_written_in_the_unit_that_people_read() -> None:
    written = [in_bytes(each) for each in (0, 999, 8_192, 75e6, 3.14e9, 2e12, 5e15)]
    assert written == ["0.0 B", "999.0 B", "8.2 kB", "75.0 MB", "3.1 GB", "2.0 TB", "5,000.0 TB"]
