"""``relay status``: what a person and a script are shown, and what ``--check`` finds."""

import asyncio
import json
import re

import nats
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.cli.process import migrated, relay, status


def test_status_tells_what_waits_and_that_nobody_leads(database):
    migrated(database, "shop")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("select shop.emit('orders.paid', '{}'::json) from generate_series(1, 3)")
    report = status(database, "--schema", "shop", RELAY_CIRCUIT_BREAKER_LAG="1h")
    assert report["backlog"] == 3
    assert report["backlog_is_capped"] is False
    assert 0 < report["lag_seconds"] < 60
    assert report["oldest_created_at"].endswith("+00:00")
    assert (report["parked"], report["dead"], report["delivered"]) == (0, 0, 0)
    assert (report["leader"], report["epoch"]) == (None, 0)
    assert (report["circuit_breaker"], report["bus_breaker"]) == ("closed", None)
    assert report["cursor"] == {"base": "1:1:", "target": None, "last_id": 0}
    assert report["stream"] is None
    told = relay(
        "status",
        "--schema=shop",
        RELAY_POSTGRES_DSN=database,
        RELAY_CIRCUIT_BREAKER_LAG="1h",
    ).stdout
    assert "leader     none" in told
    assert "backlog    3 events" in told
    assert "breakers   lag closed, bus unknown" in told


PARK = """
delete from relay.parked;
insert into relay.parked (id, event_id, created_at, subject, last_error, dead_at, held_by)
values (1, gen_random_uuid(), now(), 'a.b', 'no', now(), ''),
       (2, gen_random_uuid(), now(), 'a.b', 'no', null, ''),
       (3, gen_random_uuid(), now(), 'a.b', 'full', null, 'stream S')
"""


def test_the_breakers_are_what_the_leader_reports_unless_the_lag_is_worse(database):
    migrated(database)
    with psycopg.connect(database, autocommit=True, application_name="relay term") as connection:
        connection.execute(PARK)
        connection.execute(
            "insert into relay.outbox (subject, payload, created_at)"
            " values ('a.b', '1', now() - interval '1 hour')"
        )
        connection.execute(
            "update relay.report set lag_breaker = 'half-open', bus_breaker = 'open'"
        )
        report = status(database)
        assert (report["circuit_breaker"], report["bus_breaker"]) == ("open", None)
        assert (report["parked"], report["dead"], report["held"]) == (2, 1, 1)
        assert 0 < report["held_lag_seconds"] < 60
        connection.execute(
            "select pg_advisory_lock(1919247482, 'relay.outbox'::regclass::oid::int4)"
        )
        report = status(database)  # the leader saw it before it was late, or can't look
        assert (report["circuit_breaker"], report["bus_breaker"]) == ("open", "open")
        told = relay("status", RELAY_POSTGRES_DSN=database).stdout
        connection.execute("update relay.outbox set created_at = now()")
        report = status(database)
        assert (report["circuit_breaker"], report["bus_breaker"]) == ("half-open", "open")
    assert re.search(r"lag        1h\n", told)
    assert re.search(r"parked     2 events \(1 held, the oldest for \d", told)
    assert "dead       1 event\n" in told
    assert "breakers   lag open, bus open" in told


def test_status_says_why_events_are_parked_and_what_to_do_unless_they_may_not_be_seen(database):
    migrated(database)
    code = "update relay.parked set last_code = case id when 1 then 10054 else 10077 end"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(PARK)
        connection.execute(f"{code}, next_attempt_at = now() where id in (1, 3)")
        connection.execute("create role watcher_of_status login in role relay_monitor")
        try:
            monitor = make_conninfo(database, user="watcher_of_status")
            assert status(monitor)["reasons"] is None
        finally:
            connection.execute("drop role watcher_of_status")
    dead, held = status(database)["reasons"]
    assert (dead["dead"], dead["code"], dead["events"], dead["first_id"]) == (True, 10054, 1, 1)
    assert (held["dead"], held["held_by"], held["error"]) == (False, "stream S", "full")
    assert held["relay"].startswith("holds the events of this stream")
    told = relay("status", RELAY_POSTGRES_DSN=database).stdout
    assert "reason     1 event dead: no\n" in told
    assert "           meaning: the stream is full, and discards what is new\n" in told
    assert "           remedy: let its consumers catch up, purge it, or raise max_msgs" in told


def test_a_leader_is_who_holds_the_lease_of_this_schema_and_no_other(database):
    migrated(database, "shop")
    migrated(database, "other")
    with psycopg.connect(database, autocommit=True, application_name="relay term") as connection:
        connection.execute("update shop.cursor set holder = 'me', epoch = 7")
        assert status(database, "--schema", "shop")["leader"] is None
        lease = "select pg_advisory_lock(1919247482, '{}.outbox'::regclass::oid::int4)"
        connection.execute(lease.format("other"))
        assert status(database, "--schema", "shop")["leader"] is None
        connection.execute(lease.format("shop"))
        report = status(database, "--schema", "shop")
    assert (report["leader"], report["epoch"]) == ("me", 7)


@pytest.mark.parametrize("application", ["psql", "", "relay status", "o'brien"])
def test_who_holds_the_lease_and_is_no_relay_is_named_and_does_not_lead(database, application):
    migrated(database)
    with psycopg.connect(database, autocommit=True, application_name=application) as stranger:
        stranger.execute(LEAD)
        who = f"pid {stranger.info.backend_pid}, login postgres, application {application!r}"
        report = status(database)
        assert (report["leader"], report["lease_taken_by"]) == (None, who)
        told = relay("status", "--check", RELAY_POSTGRES_DSN=database)
    assert told.returncode == 1
    assert (
        f"leader     none: a session that is no relay's holds the lease: {who}; end it"
        in told.stdout
    )
    assert (
        f"relay: nobody leads: a session that is no relay's holds the lease: {who}" in told.stderr
    )


def test_a_broker_that_is_away_is_part_of_the_status(database):
    migrated(database)
    report = status(database, "--stream", "S", "--nats-url", "nats://127.0.0.1:1")
    assert (report["stream"]["name"], report["stream"]["path"]) == ("S", None)
    assert "127.0.0.1:1" in report["stream"]["error"]
    told = relay(
        "status", "--stream", "S", "--nats-url", "nats://127.0.0.1:1", RELAY_POSTGRES_DSN=database
    )
    assert told.returncode == 0
    assert "stream     S: not seen while NATS is away\n" in told.stdout
    assert "nats       127.0.0.1:1: Connection refused\n" in told.stdout


def test_nats_is_told_of_without_a_stream_as_well(database, nats_server):
    migrated(database)
    assert status(database, "--nats-url", nats_server.url)["nats"] == "answers"
    assert "127.0.0.1:1" in status(database, "--nats-url", "nats://127.0.0.1:1")["nats"]
    report = status(database, "--stream", "NONE", "--nats-url", nats_server.url)
    assert report["nats"] == "answers"
    assert "no stream NONE" in report["stream"]["error"]
    told = relay("status", "--nats-url", nats_server.url, RELAY_POSTGRES_DSN=database).stdout
    assert "nats       answers" in told


@pytest.mark.slow
def test_a_status_that_is_checked_exits_with_1_and_the_reasons(database, nats_server):
    migrated(database)
    there = ["--nats-url", nats_server.url]

    def checked(*args, **environ):
        done = relay("status", "--check", *args, RELAY_POSTGRES_DSN=database, **environ)
        return done.returncode, done.stderr.splitlines(), done.stdout

    nobody = "relay: nobody leads: no relay runs, or none can take the lease"
    code, reasons, told = checked(*there)
    assert (code, reasons) == (1, [nobody])
    assert told.startswith("schema ")
    code, reasons, told = checked("--json", "--nats-url", "nats://127.0.0.1:1")
    assert (code, reasons[0]) == (1, nobody)
    assert reasons[1].startswith("relay: NATS is away from here: 127.0.0.1:1")
    assert json.loads(told)["leader"] is None
    with psycopg.connect(database, autocommit=True, application_name="relay term") as connection:
        connection.execute(LEAD)
        assert checked(*there)[:2] == (0, [])
        connection.execute("update relay.report set lag_breaker = 'open', bus_breaker = 'open'")
        code, reasons, _ = checked(*there)
        assert (code, len(reasons)) == (1, 2)
        assert reasons[0].startswith("relay: events are late")
        assert reasons[1] == "relay: NATS is away from the leader"
        code, _, told = checked(*there, "--json", RELAY_LOG_FORMAT="json")
        assert (code, json.loads(told)["circuit_breaker"]) == (1, "open")
    assert relay("status", *there, RELAY_POSTGRES_DSN=database).returncode == 0
    assert relay("status", "--check", "--watch").returncode == 2


LEAD = """
update relay.cursor set holder = 'me', epoch = 7;
update relay.report set epoch = 7, lag_breaker = 'closed', bus_breaker = 'closed',
                        reported_at = clock_timestamp();
select pg_advisory_lock(1919247482, 'relay.outbox'::regclass::oid::int4)
"""


def test_a_status_tells_no_weakness_of_the_stream_each_time(database, nats_server):
    migrated(database)
    stream = f"WEAK_{database.rpartition('_')[2][:8]}"
    config = {"name": stream, "subjects": [f"{stream}.>"], "storage": "memory", "no_ack": False}
    asyncio.run(made(nats_server.url, {**config, "duplicate_window": 1_000_000_000}))
    for form in ([], ["--json"]):
        done = relay(
            *("status", "--stream", stream, "--nats-url", nats_server.url, *form),
            RELAY_POSTGRES_DSN=database,
        )
        assert (done.returncode, done.stderr) == (0, "")


async def made(url, config):
    client = await nats.connect(url)
    answer = await client.request(
        f"$JS.API.STREAM.CREATE.{config['name']}", json.dumps(config).encode(), timeout=5
    )
    await client.close()
    assert "error" not in json.loads(answer.data)
