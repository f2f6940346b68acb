"""The audit against relays whose faults are known, and against ours.

R-LOSS R-PHANTOM R-ORDER R-ONCE
"""

import asyncio
import random
import uuid
from pathlib import Path

import pytest

from tests.audit.seeded import (
    COLUMNS,
    Loop,
    Run,
    audit,
    by_last_id,
    in_order,
    incumbent,
    write_to_ours,
)
from tests.audit.seeded import skip_locked as skip_locked_
from tests.system.harness import STREAM, RelayProcess, alone, delivered, until

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
    seen: set[str] = set()
    while True:  # a loop that loses does not lose in every run
        run = run_of(database, nats_server.url, loop, workers=workers)
        code, found, report = audit(database, nats_server.url, run.stream, *COLUMNS)
        assert found == run.truth
        assert code == (1 if found else 0)
        assert report["rows"]["count"] == len(run.committed)
        assert report["not_yet"] == {}
        seen |= {kind for kind, *_ in found}
        if seen >= kinds:
            break


def test_ours_under_writers_that_share_keys_has_no_findings(
    outbox_dsn: str, own_nats, tmp_path: Path
) -> None:
    with RelayProcess(outbox_dsn, own_nats.url, tmp_path / "relay.log"):
        asyncio.run(write_to_ours(outbox_dsn, writers=32, transactions=20))
        while_it_runs = audit(outbox_dsn, own_nats.url, STREAM)
        count = alone(outbox_dsn, "select count(*) from relay.outbox")
        until(lambda: delivered(outbox_dsn) == count, 30)
        code, found, report = audit(outbox_dsn, own_nats.url, STREAM, "--grace", "0s")
    assert while_it_runs[:2] == (0, set())
    assert (code, found) == (0, set())
    assert report["matched"] == count == report["rows"]["count"]
