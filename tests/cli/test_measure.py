"""`relay measure`: what it counts, what it refuses, and that nothing of it is left."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator

import psycopg
import pytest

from bench.counts import BASELINE
from relay import devstack
from relay.errors import RelayError
from relay.postgres.measure import COMMENT, Bystander, Inserted, Scratch, made, slow
from relay.postgres.session import Session
from tests.cli.dead import Run
from tests.postgres.databases import execute
from tests.system.harness import until

pytestmark = pytest.mark.timeout(60)

AS_IN_BENCH = ("--payload-bytes", "250")
"""The payload of ``bench.counts`` has so many."""


@pytest.fixture
def outbox_dsn(one_dsn: str) -> str:
    return one_dsn


def scratches(dsn: str) -> list[str]:
    found = execute(dsn, "select nspname from pg_namespace where nspname ~ '^relay_measure_'")
    return [str(name) for (name,) in found]


def roles(dsn: str) -> list[tuple[object, ...]]:
    return execute(dsn, "select rolname from pg_roles order by 1")


def started(dsn: str, *more: str) -> subprocess.Popen[str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("RELAY_")}
    return subprocess.Popen(
        [sys.executable, "-m", "relay", "measure", "--yes", "--json", *more],
        env={**kept, "RELAY_POSTGRES_DSN": dsn},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_counts_what_the_bench_counts_and_leaves_nothing(
    relay: Run, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inserted = Scratch.inserted

    async def all_of_them(
        scratch: Scratch, payload: str, events: int, _seconds: float, *, table: str = "outbox"
    ) -> Inserted:
        return await inserted(scratch, payload, events, 60, table=table)  # as bench.counts

    monkeypatch.setattr(Scratch, "inserted", all_of_them)
    before = roles(dsn)
    done = relay("measure", "--yes", "--json", "--seconds", "2", *AS_IN_BENCH)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    name = "WAL bytes per event of the producer's INSERT"
    counted = json.loads(BASELINE.read_text())[name]
    assert found["counts"] == {name: pytest.approx(counted, rel=0.01), "dead rows of the outbox": 0}
    assert found["drain_per_second"] > 0
    for table in ("outbox", "bare"):
        assert 0 < found["commit_ms"][table]["p50"] <= found["commit_ms"][table]["p99"]
    assert scratches(dsn) == []
    assert roles(dsn) == before, "the whole cluster would see them"
    assert execute(dsn, "select count(*) from relay.outbox") == [(0,)]


def test_it_says_what_it_will_do_and_asks(relay: Run, dsn: str) -> None:
    asked = relay("measure")
    assert asked.exit_code == 2
    assert "events of 256 bytes" in asked.stderr
    assert "say --yes to write to the database" in asked.stderr
    assert scratches(dsn) == []


def test_a_login_that_may_make_no_schema_is_told_what_it_lacks(
    relay: Run, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"poor_{uuid.uuid4().hex[:8]}"
    execute(dsn, f"create role {name} login")
    monkeypatch.setenv("RELAY_POSTGRES_DSN", dsn.replace("user=postgres", f"user={name}"))
    done = relay("measure", "--yes")
    assert done.exit_code == 3
    assert "permission denied for database" in done.stderr
    assert (
        f"grant create on database {psycopg.conninfo.conninfo_to_dict(dsn)['dbname']}"
        in done.stderr
    )
    assert name in done.stderr


def test_it_writes_nothing_that_a_subscriber_would_stop_at(relay: Run, dsn: str) -> None:
    execute(dsn, "create publication everything for all tables")
    done = relay("measure", "--yes")
    assert (done.exit_code, scratches(dsn)) == (1, [])
    assert "the publication everything is for all tables" in done.stderr


def test_a_dump_that_is_at_work_is_left_alone(relay: Run, dsn: str) -> None:
    with psycopg.connect(dsn, application_name="pg_dump"):
        done = relay("measure", "--yes")
    assert (done.exit_code, scratches(dsn)) == (1, [])
    assert "pg_dump is at work" in done.stderr


def test_ctrl_c_cleans_up_and_so_does_the_next_run_after_a_kill(dsn: str) -> None:
    with started(dsn) as killed:
        until(lambda: scratches(dsn) != [], 20)
        killed.kill()
    (left,) = scratches(dsn)
    with started(dsn, "--log-level", "warning") as interrupted:
        until(lambda: left not in scratches(dsn) and scratches(dsn) != [], 20)
        time.sleep(0.3)
        interrupted.send_signal(signal.SIGINT)
        _, said = interrupted.communicate(timeout=20)
    assert interrupted.returncode == 130, said
    assert scratches(dsn) == []
    assert "dropped what a killed run had left" in said
    assert "interrupted: the schema is dropped" in said
    assert "Traceback" not in said


@pytest.mark.anyio
async def test_a_run_that_lives_keeps_its_schema_and_so_does_a_stranger(dsn: str) -> None:
    stranger = "relay_measure_00000000"
    execute(dsn, f"create schema {stranger}; comment on schema {stranger} is 'mine'")
    async with made(dsn) as lives, made(dsn) as other:
        assert set(scratches(dsn)) == {stranger, lives.schema, other.schema}
        assert execute(dsn, f"select obj_description('{lives.schema}'::regnamespace)") == [
            (COMMENT,)
        ]
    assert scratches(dsn) == [stranger]


@pytest.mark.parametrize(
    ("before", "now", "is_slow"),
    [
        (0.001, 0.001, False),
        (0.001, 0.0059, False),
        (0.001, 0.0061, True),
        (0.020, 0.059, False),
        (0.020, 0.061, True),
    ],
)
def test_a_commit_is_slow_at_three_times_its_time_and_5_ms_more(
    before: float, now: float, *, is_slow: bool
) -> None:
    assert slow(before, now) is is_slow


@pytest.mark.anyio
async def test_others_who_slow_down_end_it(dsn: str) -> None:
    class Slowing(Bystander):
        took = 0.001

        async def _commit(self) -> float:
            assert await super()._commit() < 1, "the server's own time, in s"
            return self.took

    async with await Session.connect(dsn, "bystander") as session:
        bystander = Slowing(session)
        await bystander.begin()
        bystander.took = 0.02
        with pytest.raises(RelayError, match=r"commit took 20\.0 ms instead of 1\.0"):
            await bystander.watch()


@pytest.fixture
def own_postgres() -> Iterator[devstack.Postgres]:
    with devstack.postgres(settings={"fsync": "off"}) as found:
        yield found


@pytest.mark.slow
def test_commits_that_hang_end_it_and_hold_up_no_cleaning(own_postgres: devstack.Postgres) -> None:
    dsn = own_postgres.create_database("shop")
    with started(dsn) as running:
        until(lambda: scratches(dsn) != [], 20)
        execute(dsn, "alter system set synchronous_standby_names = 'nobody'")
        execute(dsn, "select pg_reload_conf()")
        _, said = running.communicate(timeout=50)
    assert running.returncode == 1
    assert "another session's commit did not come back within 2 s" in said
    assert scratches(dsn) == []
