"""Asynchronous failover, and an old primary that takes writes beside the new one.

What had reached the old primary alone is lost to the database, and some of it is published: nobody
can take that back. What the new primary has is published, whole, once and in order, though ids and
transaction ids are given again; what is written to the old one from then on is not.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from relay import devstack
from relay.audit.oracle import compare
from relay.audit.stream import read_stream
from relay.postgres import migrations
from tests.devstack.standby import Standby, standby
from tests.system.harness import STREAM, Load, Start, connected, delivered, emit, until
from tests.system.proxy import Proxy
from tests.system.test_failover import SETTINGS, at_ports, flows, unharmed

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(120)]

MOVES_WITHIN = 20.0
"""Seconds in which a relay leaves a primary that was never stopped."""

ROWS = "select event_id::text, id from relay.outbox"


@pytest.fixture
def own_postgres(one_postgres: devstack.Postgres) -> Iterator[devstack.Postgres]:
    with devstack.postgres(one_postgres.installation, settings=SETTINGS) as server:
        asyncio.run(migrations.migrate(server.dsn, "relay"))
        yield server


@contextmanager
def behind(primary: devstack.Postgres) -> Iterator[tuple[Proxy, Standby]]:
    """Run a standby behind a cable that can be frozen."""
    with (
        Proxy("127.0.0.1", primary.port) as cable,
        standby(primary, SETTINGS, via=cable.port) as second,
    ):
        yield cable, second


def rows(dsn: str) -> dict[str, int]:
    with connected(dsn) as look:
        return dict(look.execute(ROWS).fetchall())


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
        until(lambda: delivered(second.dsn) == len(rows(second.dsn)), 20)
        unharmed(second.dsn)
        has, had = rows(second.dsn), rows(own_postgres.dsn)
        stream = await read_stream(own_nats.url, STREAM)

    committed = [each for each in load.committed.values() if each.event_id in has]
    assert {each.event_id for each in committed} == set(has)
    found = compare(committed, [each for each in stream if each.event_id in has])
    assert found.is_clean, found
    published = {each.event_id for each in stream} - set(has)
    assert published  # of what is lost
    assert published <= set(had)
    assert not published & set(astray.committed)
    again = {had[event_id] for event_id in published} & set(has.values())
    assert again  # ids that were given to two events, and both are in the stream


async def test_a_relay_leaves_a_primary_that_nobody_stopped_for_the_one_that_was_promoted(
    own_postgres: devstack.Postgres, own_nats: devstack.NatsServer, start: Start
) -> None:
    with behind(own_postgres) as (cable, second):
        dsn = at_ports(own_postgres, own_postgres.port, second.port)
        relays = [start(dsn, own_nats.url) for _ in range(2)]
        first = emit(own_postgres.dsn, "orders.placed")
        until(lambda: delivered(own_postgres.dsn) == 1, 20)
        until(lambda: first in rows(second.dsn), 20)
        cable.freeze()
        second.promote()
        there = emit(second.dsn, "orders.placed")
        until(lambda: delivered(second.dsn) == 2, MOVES_WITHIN)
        emit(own_postgres.dsn, "orders.placed")
        relays[0].terminate()
        then = emit(second.dsn, "orders.placed")
        until(lambda: delivered(second.dsn) == 3, 20)
        stream = await read_stream(own_nats.url, STREAM)
    assert [each.event_id for each in stream] == [first, there, then]
