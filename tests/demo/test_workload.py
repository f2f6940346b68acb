"""The producers: what they say they committed is exactly what Postgres holds."""

from importlib.resources import files

import anyio
import psycopg
import pytest

from relay.audit.oracle import digest
from relay.demo.producer import Workload
from relay.devstack import DevstackError

pytestmark = pytest.mark.anyio

_OUTBOX = """
select event_id::text, key, coalesce(payload_bytes, convert_to(payload::text, 'UTF8'))
  from relay.outbox order by id
"""


@pytest.fixture
def dsn(outbox_dsn):
    with psycopg.connect(outbox_dsn, autocommit=True) as connection:
        connection.execute((files("relay.demo") / "orders.sql").read_bytes())
    return outbox_dsn


def rows(dsn, query):
    with psycopg.connect(dsn) as connection:
        return connection.execute(query).fetchall()


async def run(dsn, *, events):
    workload = Workload(dsn, producers=3, rate=5000, events=events)
    with anyio.fail_after(60):
        await workload.run()
    return workload


async def test_producers_report_exactly_what_they_committed(dsn):
    workload = await run(dsn, events=601)
    assert len(workload.events) == 601
    stored = rows(dsn, _OUTBOX)
    assert {(event.event_id, event.key, event.digest) for event in workload.events} == {
        (event_id, key, digest(payload)) for event_id, key, payload in stored
    }
    assert len(stored) == 601


async def test_some_transactions_roll_back_and_leave_gaps_in_the_ids(dsn):
    await run(dsn, events=300)
    ((highest,),) = rows(dsn, "select max(id) from relay.outbox")
    assert highest > 310


async def test_the_order_of_a_key_is_the_same_for_orders_and_events(dsn):
    workload = await run(dsn, events=600)
    sequence = {event.event_id: event.sequence for event in workload.events}
    by_key = {}
    for event_id, key, _ in rows(dsn, _OUTBOX):
        by_key.setdefault(key, []).append(sequence[event_id])
    assert all(versions == list(range(1, len(versions) + 1)) for versions in by_key.values())
    assert max(map(len, by_key.values())) == 3
    assert {
        f"order-{n}": version for n, version in rows(dsn, "select id, version from demo.orders")
    } == {key: len(versions) for key, versions in by_key.items()}


async def test_events_are_emitted_as_json_as_bytes_and_by_plain_insert(dsn):
    await run(dsn, events=100)
    ((json, in_bytes, inserted),) = rows(
        dsn,
        "select count(payload), count(payload_bytes), count(headers) from relay.outbox",
    )
    assert json > inserted > 0
    assert in_bytes > 0


async def test_producers_without_an_end_stop_when_told_and_report_their_last_commit(dsn):
    workload = Workload(dsn, producers=2, rate=500, events=None)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop_after_some, workload)
            await workload.run()
    assert [(len(workload.events),)] == rows(dsn, "select count(*) from relay.outbox")
    assert 0 < workload.seconds < 60


async def stop_after_some(workload):
    while len(workload.events) < 50:
        await anyio.sleep(0.01)
    workload.stop()


async def test_a_failing_producer_is_an_error(capfd):
    with pytest.raises(ExceptionGroup) as caught:
        await run("host=127.0.0.1 port=1 dbname=nothing", events=1)
    assert caught.group_contains(DevstackError, match="producer failed")
    assert "port 1 failed" in capfd.readouterr().err
