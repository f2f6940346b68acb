"""Asynchronous failover, and an old primary that takes writes beside the new one.

What had reached the old primary alone is lost to the database, and some of it is published: nobody
can take that back. What the new primary has is published, whole, once and in order, though ids and
transaction ids are given again; what is written to the old one from then on is not.
"""

from collections.abc import Iterator

import pytest

from relay import devstack
from relay.audit.stream import read_stream
from tests.system.failover import at_ports, behind, failing_over, judge, rows
from tests.system.harness import STREAM, Load, RelayProcess, Start, delivered, emit, until
from tests.system.test_failover import flows, unharmed

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(120)]

MOVES_WITHIN = 20.0
"""Seconds in which a relay leaves a primary that was never stopped."""


@pytest.fixture
def own_postgres(one_postgres: devstack.Postgres) -> Iterator[devstack.Postgres]:
    with failing_over(one_postgres.installation) as server:
        yield server


async def test_a_new_primary_loses_nothing_and_an_old_one_that_comes_back_is_not_published_from(
    own_postgres: devstack.Postgres, own_nats: devstack.NatsServer, start: Start
) -> None:
    """R-LOSS, R-ORDER, R-ONCE: ids are given again, to other events."""
    with behind(own_postgres) as (cable, second):
        dsn = at_ports(own_postgres, own_postgres.port, second.port)  # the old one stands first
        new_first = at_ports(own_postgres, second.port, own_postgres.port)
        relays = [start(dsn, own_nats.url) for _ in range(2)]
        with Load(f"{new_first} target_session_attrs=read-write") as load:
            flows(own_postgres.dsn)
            cable.freeze()
            flows(own_postgres.dsn)  # published, and on the old primary alone
            own_postgres.kill()
            second.promote()
            flows(second.dsn)
            own_postgres.start()  # two primaries
            with Load(own_postgres.dsn, producers=1) as astray:
                for relay in relays:
                    relay.kill()
                relays = [start(dsn, own_nats.url) for _ in range(2)]  # which remember nothing
                flows(second.dsn)
        until(lambda: all(left(relay) for relay in relays), 20)
        assert [left(relay) for relay in relays] == [1, 1]
        until(lambda: delivered(second.dsn) == len(rows(second.dsn)), 20)
        unharmed(second.dsn)
        has, old = rows(second.dsn), rows(own_postgres.dsn)
        stream = await read_stream(own_nats.url, STREAM)
    had = {event_id: id_ for event_id, id_ in old.items() if event_id not in astray.committed}
    judged = judge(load, has, had, stream)
    assert judged.is_clean, judged
    assert judged.gone
    assert judged.twice


def left(relay: RelayProcess) -> int:
    """How often the relay has said that a server is no primary any more."""
    return sum("is no primary any more" in each["event"] for each in relay.said())


async def test_a_relay_leaves_a_primary_that_nobody_stopped_for_the_one_that_was_promoted(
    own_postgres: devstack.Postgres, own_nats: devstack.NatsServer, start: Start
) -> None:
    with behind(own_postgres) as (cable, second):
        dsn = at_ports(own_postgres, own_postgres.port, second.port)
        relays = [start(dsn, own_nats.url) for _ in range(2)]
        first = emit(own_postgres.dsn, "orders.placed")
        until(lambda: delivered(own_postgres.dsn) == 1, 20)
        until(lambda: first in rows(second.dsn), 20)
        # One that starts later would lead at the new primary while the other is at the old one.
        until(lambda: any("standing by" in str(relay.said()) for relay in relays), 20)
        cable.freeze()
        second.promote()
        there = emit(second.dsn, "orders.placed")
        until(lambda: delivered(second.dsn) == 2, MOVES_WITHIN)
        emit(own_postgres.dsn, "orders.placed")
        assert relays[0].terminate() == 0
        then = emit(second.dsn, "orders.placed")
        until(lambda: delivered(second.dsn) == 3, 20)
        stream = await read_stream(own_nats.url, STREAM)
    assert [each.event_id for each in stream] == [first, there, then]
