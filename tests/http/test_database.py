"""What the page asks of the database: who stands by, which keys wait, and how seldom it asks."""

import json
import uuid
from pathlib import Path

import anyio
import psycopg
import pytest
from pydantic import ValidationError

from relay import devstack
from relay.http.database import LOOK_EVERY, MOST_EVENTS, Database
from relay.http.feed import Feed
from relay.http.health import SCHEMA
from relay.http.routes import Retry
from relay.postgres import migrations
from relay.postgres.operator import DeadEvents
from relay.postgres.session import Session
from relay.postgres.sqlfiles import load
from relay.postgres.status import Standby, standbys, status
from tests.http.asking import asked_for, park
from tests.system.harness import RelayProcess, connected, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


async def stand_by(dsn: str, schema: str = "relay") -> list[Standby]:
    async with await Session.connect(dsn, "test") as session:
        return list(await standbys(session, schema))


async def test_standbys_are_those_of_this_outbox_and_without_the_leader(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    await migrations.migrate(dsn, "other")
    others = {"schema": "other", "stream": "OTHER", "stream_subjects": "other.>"}
    with (
        RelayProcess(dsn, own_nats.url, tmp_path / "1.log"),
        RelayProcess(dsn, own_nats.url, tmp_path / "2.log"),
        RelayProcess(dsn, own_nats.url, tmp_path / "3.log") as third,
        RelayProcess(dsn, own_nats.url, tmp_path / "4.log", **others),
        RelayProcess(dsn, own_nats.url, tmp_path / "5.log", **others),
    ):
        logs = [tmp_path / f"{number}.log" for number in range(1, 6)]
        until(lambda: told(logs, '"leading"') == 2 and told(logs, "standing by") == 3, 30)
        found = await stand_by(dsn)
        assert len(found) == 2
        assert {each.address for each in found} == {"127.0.0.1"}
        assert len(await stand_by(dsn, "other")) == 1
        async with await Session.connect(dsn, "test") as session:
            row = await status(session, "relay")
        assert (row["led"], row["epoch"]) == (True, 1)
        third.terminate()
    with anyio.fail_after(20):
        while await stand_by(dsn):  # until Postgres has noticed who was killed
            await anyio.sleep(0.05)


def told(logs: list[Path], what: str) -> int:
    return sum(what in log.read_text() for log in logs)


async def test_a_monitor_sees_standbys_of_another_login_without_their_address(dsn: str) -> None:
    name = f"monitor_{uuid.uuid4().hex[:8]}"
    with connected(dsn) as owner:
        owner.execute(f"create role {name} login in role relay_monitor")
    with psycopg.connect(f"{dsn} application_name='relay term'"):
        found = await stand_by(dsn.replace("user=postgres", f"user={name}"))
    assert [each.address for each in found] == [None]


async def test_keys_wait_each_behind_its_first_event(dsn: str) -> None:
    park(dsn, 1, 4, 9, dead=False, key="a", error="first")
    park(dsn, 2, dead=False, key="b", subject="orders.paid")
    park(dsn, 3, 5, dead=False, key=None)
    park(dsn, 6, key="dead")
    async with DeadEvents.open(dsn, "relay") as parked:
        found = await parked.keys(10)
        assert [(each.key, each.events, each.id) for each in found] == [
            ("a", 3, 1),
            ("b", 1, 2),
            (None, 2, 3),
        ]
        assert (found[1].subject, found[0].error) == ("orders.paid", "first")
        assert len(await parked.keys(1)) == 1


async def test_very_many_waiting_events_are_looked_at_in_part(dsn: str) -> None:
    with connected(dsn) as owner:
        owner.execute(
            "insert into relay.parked (id, event_id, created_at, subject, key, last_error, dead_at)"
            " select i, gen_random_uuid(), now(), 'a.b', 'k' || i % 100, 'no',"
            "        case when i > 50000 then now() end"
            " from generate_series(1, 100000) as i"
        )
        owner.execute("analyze relay.parked")
        query = load("queries/parked_keys", "relay").as_string().replace("%(limit_rows)s", "20")
        plan = owner.execute(f"explain (analyze, buffers) {query}".encode()).fetchall()
    told = "\n".join(line for (line,) in plan)
    assert "Index Scan using parked_live" in told
    assert "Seq Scan" not in told
    async with DeadEvents.open(dsn, "relay") as parked:
        found = await parked.keys(20)
    assert [(each.key, each.events) for each in found] == [
        ("k1", 500),
        ("k10", 500),
        ("k11", 500),
        ("k0", 500),
    ]


class Looks:
    """A look-up that runs, and the sessions that the database has of it."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.feed = Feed()
        self.database = Database(dsn, "relay", self.feed)

    def sessions(self) -> int:
        statement = (
            "select count(*) from pg_stat_activity"
            " where application_name = 'relay status page' and datname = current_database()"
        )
        [(count,)] = asked_for(self.dsn, statement)
        return int(count)


async def test_it_looks_only_while_somebody_watches_and_once_for_all(dsn: str) -> None:
    park(dsn, 1, 2)
    park(dsn, 3, dead=False, key="other")
    looks = Looks(dsn)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(looks.database.run)
        await anyio.sleep(0.1)
        assert (looks.sessions(), looks.database.last) == (0, None)
        first, second = looks.feed.join("a"), looks.feed.join("b")
        with first, second, anyio.fail_after(10):
            while looks.database.last is None:
                await anyio.sleep(0.01)
            look_up = looks.database.last
            assert (look_up.dead.total, len(look_up.keys), look_up.rate) == (2, 1, None)
            assert looks.sessions() == 1
            began = anyio.current_time()
            while looks.database.last is look_up:
                await anyio.sleep(0.01)
            assert anyio.current_time() - began > LOOK_EVERY / 2
            assert looks.database.last.rate == 0
            looks.database.look_up_at_once()
            look_up, began = looks.database.last, anyio.current_time()
            while looks.database.last is look_up:
                await anyio.sleep(0.01)
            assert anyio.current_time() - began < LOOK_EVERY / 2
        with anyio.fail_after(10):
            while looks.sessions():
                await anyio.sleep(0.05)
        assert looks.database.last is None
        tasks.cancel_scope.cancel()


async def test_a_look_that_fails_is_told_and_tried_again_and_the_last_sight_stays(dsn: str) -> None:
    looks = Looks(dsn)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(looks.database.run)
        watcher = looks.feed.join("a")
        with watcher, anyio.fail_after(20):
            while looks.database.last is None:
                await anyio.sleep(0.01)
            with connected(dsn) as owner:
                owner.execute("alter schema relay rename to gone")
                while not looks.database.trouble:
                    await anyio.sleep(0.01)
                assert looks.database.trouble == SCHEMA
                assert looks.database.last is not None
                owner.execute("alter schema gone rename to relay")
            while looks.database.trouble:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()


def dead(dsn: str) -> list[int]:
    statement = "select id from relay.parked where dead_at is not null order by id"
    return [id_ for (id_,) in asked_for(dsn, statement)]


async def test_some_dead_events_are_retried_or_all_and_never_another_one(dsn: str) -> None:
    park(dsn, 1, 2, 3, 5)
    park(dsn, 4, dead=False, key="other")
    database = Database(dsn, "relay", Feed())
    some = "2 events are tried again, the others are not dead any more"
    assert await database.retry([1, 3, 4, 99], "a test") == (200, some)
    assert dead(dsn) == [2, 5]
    assert await database.retry(None, "a test") == (200, "2 events are tried again")
    assert dead(dsn) == []
    assert asked_for(dsn, "select count(*) from relay.decision") == [(4,)]
    for ids in ([1, 2], None):
        assert await database.retry(ids, "a test") == (409, "none of these events is dead any more")


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        ('{"id": "5"}', [5]),
        ('{"id": 5}', [5]),
        ('{"ids": ["5", 9223372036854775807]}', [5, 2**63 - 1]),
        ('{"ids": "all"}', "all"),
        (json.dumps({"ids": list(range(1, MOST_EVENTS + 1))}), list(range(1, MOST_EVENTS + 1))),
        (json.dumps({"ids": list(range(1, MOST_EVENTS + 2))}), None),
        ('{"ids": []}', None),
        ('{"ids": "al"}', None),
        ('{"ids": ["all"]}', None),
        ('{"id": true}', None),
        ('{"id": 0}', None),
        ('{"id": "9223372036854775808"}', None),
        ("{}", None),
    ],
)
async def test_a_retry_names_one_event_some_or_all(body: str, ids: object) -> None:
    try:
        assert Retry.model_validate_json(body).ids == ids
    except ValidationError:
        assert ids is None
