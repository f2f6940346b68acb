"""An outbox that goes on somewhere else: restored, upgraded, or copied by logical replication.

Ids are given again, transaction ids mean something else or nothing. Each move is noticed, answered
and said once; nothing that the outbox has after the move is lost, and the stream holds it once.
"""

import asyncio
import json
from collections.abc import Iterator
from tempfile import NamedTemporaryFile

import pytest

from relay import devstack
from relay.audit.stream import read_stream
from relay.postgres import migrations
from tests.devstack.standby import restored, upgraded
from tests.postgres.databases import execute, further_databases, programs
from tests.system.failover import SETTINGS
from tests.system.harness import STREAM, RelayProcess, Start, delivered, emit, until
from tests.system.test_failover import unharmed

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(120)]

CAME = "the outbox has rows that came from another cluster"
DEAD = "select event_id::text from relay.parked where dead_at is not null"
OF_EVENTS = "select id from relay.outbox where event_id = any(array{}::uuid[])"
LOGICAL = {"wal_level": "logical"}


@pytest.fixture(scope="module")
def source() -> Iterator[devstack.Postgres]:
    with devstack.postgres(settings=SETTINGS | LOGICAL) as server:
        yield server


@pytest.fixture
def old(source: devstack.Postgres) -> Iterator[str]:
    """An outbox of the old cluster."""
    with further_databases(source) as make:
        dsn = make()
        asyncio.run(migrations.migrate(dsn, "relay"))
        yield dsn


@pytest.fixture
def new(one_postgres: devstack.Postgres, one_template: str) -> Iterator[str]:
    """An empty database of another cluster; with its template that has the roles."""
    assert one_template
    with further_databases(one_postgres) as make:
        yield make()


def emitted(dsn: str, first: int, count: int = 20) -> list[str]:
    return [
        emit(dsn, "orders.placed", f"k{number % 3}", number=number)
        for number in range(first, first + count)
    ]


async def stored(url: str) -> list[str]:
    return [each.event_id for each in await read_stream(url, STREAM)]


def said(relay: RelayProcess, words: str) -> int:
    return sum(words in json.dumps(each) for each in relay.said())


def through(dsn: str, events: int) -> None:
    until(lambda: delivered(dsn) == events, 20)


async def goes_on(dsn: str, nats: devstack.NatsServer, start: Start, before: list[str]) -> None:
    """See a moved outbox published whole and once; two relays in turn, and one says it moved."""
    relay = start(dsn, nats.url)
    after = emitted(dsn, 100)
    through(dsn, len(before) + len(after))
    assert said(relay, CAME) == 1, relay.log.read_text()
    assert relay.terminate() == 0
    relay = start(dsn, nats.url)
    after += emitted(dsn, 200)
    through(dsn, len(before) + len(after))
    assert said(relay, CAME) == 0
    assert relay.terminate() == 0
    unharmed(dsn)
    assert await stored(nats.url) == before + after


def half_delivered(dsn: str, nats: devstack.NatsServer, start: Start) -> list[str]:
    """Write events of which a relay publishes the first half."""
    relay = start(dsn, nats.url, retention="1h")
    first = emitted(dsn, 0)
    through(dsn, len(first))
    assert relay.terminate() == 0
    return first + emitted(dsn, 50)


def copied(source: devstack.Postgres, old: str, new: str, *switches: str) -> None:
    """Dump ``old`` into ``new``."""
    program = programs(source)
    with NamedTemporaryFile() as dump:
        program("pg_dump", "--format=custom", *switches, f"--dbname={old}", f"--file={dump.name}")
        program("pg_restore", "--exit-on-error", f"--dbname={new}", dump.name)


async def test_an_outbox_dumped_and_restored_into_another_cluster_goes_on(
    source: devstack.Postgres, old: str, new: str, own_nats: devstack.NatsServer, start: Start
) -> None:
    before = half_delivered(old, own_nats, start)
    copied(source, old, new)
    await goes_on(new, own_nats, start, before)


async def test_a_switchover_by_logical_replication_asks_for_what_it_needs_and_goes_on(
    source: devstack.Postgres, old: str, new: str, own_nats: devstack.NatsServer, start: Start
) -> None:
    """All tables are replicated, as by blue/green tools: foreign xids, the sequence is behind."""
    execute(old, "create publication moves for all tables")
    copied(source, old, new, "--schema-only", "--no-publications")
    execute(new, f"create subscription moves connection '{old}' publication moves")
    before = half_delivered(old, own_nats, start)
    until(lambda: execute(new, "select count(*) from relay.outbox") == [(len(before),)], 20)

    refused = start(new, own_nats.url)
    assert refused.process.wait(20) == 3
    assert said(refused, 'a target of the subscription \\"moves\\"') == 1
    until(
        lambda: (
            execute(new, "select settled_at from relay.cursor")
            == execute(old, "select settled_at from relay.cursor")
        ),
        20,
    )
    execute(new, "drop subscription moves")
    refused = start(new, own_nats.url)
    assert refused.process.wait(20) == 3
    assert said(refused, "select setval('relay.outbox_id_seq', 40)") == 1
    execute(new, "select setval('relay.outbox_id_seq', 40)")
    await goes_on(new, own_nats, start, before)


async def test_an_outbox_restored_to_an_earlier_point_in_time_goes_on_from_there(
    own_nats: devstack.NatsServer, start: Start
) -> None:
    """R-LOSS, R-ONCE: ids are given again, the stream is ahead, and a key is used again."""
    with devstack.postgres(settings=SETTINGS) as server:
        await migrations.migrate(server.dsn, "relay")
        with restored(server, SETTINGS) as copy:
            relay = start(server.dsn, own_nats.url)
            kept = emitted(server.dsn, 0)
            through(server.dsn, len(kept))
            kept.append(emit(server.dsn, "orders.placed", "k0"))
            copy.up_to = str(execute(server.dsn, "select pg_current_wal_lsn()")[0][0])
            gone = emitted(server.dsn, 50)
            gone.append(emit(server.dsn, "orders.placed", message_id="tried again"))
            through(server.dsn, len(kept + gone))
            ids = {each for (each,) in execute(server.dsn, "select id from relay.outbox")}
            server.kill()
            copy.start()  # at the same port
            again = emitted(copy.dsn, 100)
            repeated = emit(copy.dsn, "orders.placed", message_id="tried again")
            until(lambda: execute(copy.dsn, DEAD) == [(repeated,)], 20)
            through(copy.dsn, len(kept + again))
            assert ids & {each for (each,) in execute(copy.dsn, OF_EVENTS.format(again))}
            assert await stored(own_nats.url) == kept + gone + again
            assert relay.terminate() == 0


async def test_an_outbox_goes_on_after_pg_upgrade(
    own_nats: devstack.NatsServer, start: Start
) -> None:
    newest, *older = devstack.find_postgres()
    if not older:
        pytest.skip("only one major version of Postgres is installed")
    with devstack.postgres(older[-1], settings=SETTINGS) as server:
        await migrations.migrate(server.dsn, "relay")
        before = half_delivered(server.dsn, own_nats, start)
        server.stop()
        with upgraded(server, newest, SETTINGS) as after:
            await goes_on(after.dsn, own_nats, start, before)
