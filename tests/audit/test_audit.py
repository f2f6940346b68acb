"""The audit against relays whose faults are known, and against ours.

R-LOSS R-PHANTOM R-ORDER R-ONCE
"""

import asyncio
import random
import uuid
from pathlib import Path

import psycopg
import pytest

from tests.audit.seeded import COLUMNS, Loop, Run, audit, by_last_id, in_order, incumbent
from tests.audit.seeded import skip_locked as skip_locked_
from tests.system.harness import STREAM, RelayProcess, delivered, until

SEED = 7


def run_of(dsn: str, url: str, loop: Loop, *, workers: int = 1, writers: int = 8) -> Run:
    run = Run(dsn, url, f"S{uuid.uuid4().hex[:8]}", random.Random(SEED))
    asyncio.run(incumbent(run, loop, workers=workers, writers=writers, events=25))
    return run


@pytest.mark.parametrize(
    ("loop", "workers", "kinds"),
    [
        (by_last_id, 1, {"lost"}),
        (skip_locked_, 3, {"lost", "duplicate", "phantom", "reordered", "corrupt"}),
        (in_order, 1, set()),
    ],
    ids=["id > last", "skip locked", "in order"],
)
def test_its_list_is_the_truth_whatever_the_relay_did(database, nats_server, loop, workers, kinds):
    run = run_of(database, nats_server.url, loop, workers=workers)
    code, found, report = audit(database, nats_server.url, run.stream, *COLUMNS)
    assert found == run.truth
    assert {kind for kind, *_ in found} >= kinds
    assert code == (1 if found else 0)
    assert report["rows"]["count"] == len(run.committed)
    assert report["not_yet"] == {}


def test_ours_under_writers_that_share_keys_has_no_findings(
    outbox_dsn: str, own_nats, tmp_path: Path
) -> None:
    async def write(number: int) -> None:
        chance = random.Random(number)
        insert = "insert into relay.outbox (subject, key, payload) values (%s, %s, '{}')"
        async with await psycopg.AsyncConnection.connect(outbox_dsn) as connection:
            for _ in range(20):
                for _ in range(chance.choice([1, 1, 3])):
                    key = f"{chance.randrange(10)}"
                    await connection.execute(insert, ("orders.placed", key))
                await asyncio.sleep(chance.random() * 0.02)
                await (connection.commit if chance.random() > 0.1 else connection.rollback)()

    async def writers() -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(32):
                tasks.create_task(write(number))

    with RelayProcess(outbox_dsn, own_nats.url, tmp_path / "relay.log"):
        asyncio.run(writers())
        while_it_runs = audit(outbox_dsn, own_nats.url, STREAM)
        with psycopg.connect(outbox_dsn) as look:
            (count,) = look.execute("select count(*) from relay.outbox").fetchone() or (0,)
        until(lambda: delivered(outbox_dsn) == count, 30)
        code, found, report = audit(outbox_dsn, own_nats.url, STREAM, "--grace", "0s")
    assert while_it_runs[:2] == (0, set())
    assert (code, found) == (0, set())
    assert report["matched"] == count == report["rows"]["count"]
