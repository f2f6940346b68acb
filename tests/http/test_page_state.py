"""The rate of a point: of the time that has passed, however late the loop took the point."""

import json
from datetime import UTC, datetime

from relay.facts import PageDelivered
from relay.http.database import Database
from relay.http.feed import Feed
from relay.http.health import Health, Latency
from relay.http.page_state import PageState
from relay.settings import Settings
from tests.http.test_parts import Clock, Idle


def test_a_rate_is_that_of_the_time_since_the_point_before() -> None:
    relay, feed, clock = Idle(), Feed(), Clock()
    state = PageState(
        relay,  # type: ignore[arg-type]  # all that is asked of a relay
        Health(relay.state),
        Latency(),
        database=Database("", "relay", feed),
        feed=feed,
        settings=Settings(),
        clock=clock,
        now=clock,
    )
    for seconds, events in ((0.0, 500), (1.0, 40), (2.5, 100), (0.5, 20)):
        clock.now += seconds
        relay.state.record(PageDelivered(events, 0, 0, 0.001, datetime.now(UTC)))
        state.tick()
    history = state.greeting().decode().split("\n")[1].removeprefix("data: ")
    assert [point[1] for point in json.loads(history)["history"]] == [None, 40.0, 40.0, 40.0]
