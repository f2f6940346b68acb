"""Each misconfiguration of Postgres is found and named by the right check with the right remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from relay import devstack
from relay.doctor import outbox
from relay.postgres import trial
from relay.postgres.sqlfiles import BELL_CLASS, LEASE_CLASS
from tests.doctor.examining import (
    FAULT,
    OK,
    SKIPPED,
    WARNING,
    Case,
    examine_postgres,
    expect,
    shown,
    states,
)
from tests.postgres.databases import execute
from tests.postgres.deaf_proxy import deaf_proxy
from tests.postgres.test_sessions import pooler_in_front, silent_host

pytestmark = pytest.mark.anyio

HEALTHY = {"durability": WARNING, "lease": WARNING}
"""What is not ok in a test's database: the cluster does not sync, and no relay leads."""

PARK = """
with written as (
  insert into relay.outbox (subject, payload) values ('a.b', '1') returning id, event_id, created_at
)
insert into relay.parked (id, event_id, created_at, subject, last_error, last_code, {columns})
select id, event_id, created_at, 'a.b', '{error}', {code}, {values} from written
"""
LEADS = """
update relay.cursor set holder = 'me', epoch = 7, term_began_at = now() - interval '1h',
                        settled_at = now() - interval '1h';
update relay.report set epoch = 7, bus_breaker = 'closed', lag_breaker = 'closed';
"""
SUBSCRIBED = """
create subscription feed connection 'host=127.0.0.1 port=1' publication p with (connect = false);
set allow_system_table_mods = on;
insert into pg_subscription_rel (srsubid, srrelid, srsubstate)
select oid, 'relay.outbox'::regclass, 'r' from pg_subscription where subname = 'feed'
"""
UNSUBSCRIBED = """
alter subscription feed disable;
alter subscription feed set (slot_name = none);
drop subscription feed
"""

REFUSED = [
    Case("port", "dsn", FAULT, "99999", "mend RELAY_POSTGRES_DSN", dsn={"port": "99999"}),
    Case("sslmode", "dsn", FAULT, "strange", "keywords", dsn={"sslmode": "strange"}),
    Case("service", "dsn", FAULT, "nobody", "RELAY_POSTGRES_DSN", dsn={"service": "nobody"}),
    Case("away", "postgres", FAULT, "refused", "start Postgres there", dsn={"port": "1"}),
    Case("no TLS", "tls", FAULT, "does not support SSL", "sslmode", dsn={"sslmode": "require"}),
    Case(
        "channel binding",
        "tls",
        FAULT,
        "channel binding required",
        "mend sslmode",
        dsn={"channel_binding": "require"},
    ),
    Case(
        "wrong password",
        "login",
        FAULT,
        "password authentication failed",
        'alter role "postgres" password',
        dsn={"password": "wrong"},
        user="postgres",
    ),
    Case(
        "no password",
        "login",
        FAULT,
        "no password supplied",
        "RELAY_POSTGRES_DSN_FILE",
        dsn={"password": "", "passfile": "/nowhere"},
        user="postgres",
    ),
    Case(
        "no such role",
        "login",
        FAULT,
        'role "nobody" does not exist',
        'create role "nobody" login .*grant relay_relay to "nobody"',
        user="nobody",
    ),
    Case(
        "a group",
        "login",
        FAULT,
        "not permitted to log in",
        'alter role "relay_monitor" login',
        user="relay_monitor",
    ),
    Case(
        "no such database",
        "login",
        FAULT,
        'database "nowhere" does not exist',
        'create database "nowhere"',
        dsn={"dbname": "nowhere"},
    ),
    Case(
        "connection limit",
        "login",
        FAULT,
        "too many connections for role",
        'alter role "doctor_limited" connection limit -1',
        user="doctor_limited",
    ),
]

SEEDED = [
    Case(
        "superuser",
        "role",
        WARNING,
        "postgres is a superuser",
        "grant relay_relay",
        user="postgres",
    ),
    Case(
        "few sessions",
        "sessions",
        WARNING,
        "2 sessions are left by connection limit of the role doctor_few",
        "raise connection limit of the role doctor_few",
        user="doctor_few",
    ),
    Case(
        "asynchronous commits",
        "durability",
        WARNING,
        "synchronous_commit is off",
        "alter system set synchronous_commit = on",
        user="doctor_hasty",
    ),
    Case(
        "no schema",
        "schema",
        FAULT,
        'no schema "shop"',
        "relay migrate",
        settings={"schema": "shop"},
    ),
    Case(
        "a schema of others",
        "schema",
        FAULT,
        'schema "public" of .* holds no outbox',
        "relay migrate, or mend RELAY_SCHEMA",
        settings={"schema": "public"},
    ),
    Case(
        "no rights at all",
        "grants",
        FAULT,
        "doctor_stranger lacks USAGE on schema relay, .*DELETE on outbox",
        "^grant relay_relay to doctor_stranger$",
        user="doctor_stranger",
    ),
    Case(
        "one right revoked",
        "grants",
        FAULT,
        "doctor lacks DELETE on parked$",
        "^grant DELETE on relay.parked to relay_relay$",
        "revoke delete on relay.parked from relay_relay",
    ),
    Case(
        "the ledger hidden",
        "grants",
        FAULT,
        "doctor lacks SELECT on migration$",
        "^grant SELECT on relay.migration to relay_relay$",
        "revoke all on relay.migration from relay_relay",
    ),
    Case(
        "a function revoked",
        "grants",
        FAULT,
        r"EXECUTE on relay.message_id\(",
        r"^grant EXECUTE on function relay.message_id\(.*\) to relay_relay$",
        "revoke execute on function relay.message_id from public",
    ),
    Case(
        "row-level security",
        "rls",
        FAULT,
        "hides rows of outbox from doctor",
        "alter table relay.outbox disable row level security",
        "alter table relay.outbox enable row level security",
    ),
    Case(
        "old schema",
        "migrations",
        FAULT,
        "lacks 0001_outbox",
        "^python -m relay migrate$",
        "delete from relay.migration where version = 1",
    ),
    Case(
        "newer schema",
        "migrations",
        FAULT,
        "newer than this relay",
        "install the release that applied it",
        "insert into relay.migration values (99, '0099_later', 'x')",
    ),
    Case(
        "edited migration",
        "migrations",
        FAULT,
        "is not the one that was applied",
        "install an unchanged release",
        "update relay.migration set checksum = 'abc' where version = 1",
    ),
    Case(
        "old functions",
        "migrations",
        WARNING,
        "functions and views are not those of this release",
        "^python -m relay migrate$",
        "update relay.migration set checksum = 'abc' where version = 0",
    ),
    Case(
        "a table gone",
        "tables",
        FAULT,
        'settled of schema "relay" is gone',
        "restore it from a backup",
        "drop table relay.settled",
    ),
    Case(
        "unlogged",
        "outbox",
        FAULT,
        "outbox of schema .* is unlogged",
        "^alter table relay.outbox set logged$",
        "alter table relay.outbox set unlogged",
    ),
    Case(
        "no cursor",
        "outbox",
        FAULT,
        "the cursor row .* is gone",
        "restore it from a backup",
        "delete from relay.cursor",
    ),
    Case(
        "inherited",
        "outbox",
        FAULT,
        "is a partition, or has children",
        "one table of its own",
        "create table public.child () inherits (relay.outbox)",
    ),
    Case(
        "cached ids",
        "sequence",
        FAULT,
        "caches 100 ids a session",
        "^alter sequence relay.outbox_id_seq cache 1$",
        "alter sequence relay.outbox_id_seq cache 100",
    ),
    Case(
        "cycling ids",
        "sequence",
        FAULT,
        "in a circle",
        "increment 1 no cycle",
        "alter sequence relay.outbox_id_seq cycle",
    ),
    Case(
        "ids used",
        "sequence",
        FAULT,
        "is at 1, but an event has id 7",
        r"select setval\('relay.outbox_id_seq', 7\)",
        "insert into relay.outbox (id, subject, payload) overriding system value"
        " values (7, 'a.b', '1')",
    ),
    Case(
        "renamed schema",
        "functions",
        FAULT,
        "was renamed, and emit still looks for the old name",
        "relay migrate",
        "alter function relay.emit(text, json, text, jsonb, text) reset all",
    ),
    Case(
        "no trigger",
        "trigger",
        FAULT,
        "relay_notify of the outbox is gone",
        "relay migrate",
        "drop trigger relay_notify on relay.outbox",
    ),
    Case(
        "trigger disabled",
        "trigger",
        WARNING,
        "disabled: the relay polls, every 100ms",
        "relay migrate --notify",
        "alter table relay.outbox disable trigger relay_notify",
    ),
    Case(
        "late",
        "lag",
        FAULT,
        "backlog 1, the oldest undelivered one is 1h old",
        "lease, parked and those of NATS",
        "insert into relay.outbox (subject, payload, created_at)"
        " values ('a.b', '1', now() - interval '1h')",
    ),
    Case(
        "held",
        "parked",
        WARNING,
        "1 event held by stream S, .*the stream is full",
        "raise max_msgs or max_bytes; python -m relay dead show 1",
        PARK.format(
            columns="held_by, next_attempt_at",
            values="'stream S', now()",
            error="maximum messages exceeded",
            code=10077,
        ),
    ),
    Case(
        "dead",
        "dead",
        WARNING,
        "1 event dead, .*larger than the stream's max_msg_size",
        "raise max_msg_size and retry the event",
        PARK.format(columns="dead_at", values="now()", error="too large", code=10054),
    ),
    Case(
        "no autovacuum",
        "vacuum",
        WARNING,
        "autovacuum is off for relay.outbox",
        r"alter table relay.outbox reset \(autovacuum_enabled\)",
        "alter table relay.outbox set (autovacuum_enabled = off)",
    ),
    Case(
        "another cluster",
        "cluster",
        WARNING,
        "came from another cluster",
        "delete what is delivered first",
        "update relay.cursor set system_identifier = 1",
    ),
    Case(
        "foreign rows",
        "cluster",
        WARNING,
        "transaction ids that this cluster has not reached",
        "the next term takes them in",
        "insert into relay.outbox (subject, payload, xid) values ('a.b', '1', '99999999999')",
    ),
    Case(
        "short retention",
        "retention",
        WARNING,
        "kept for 10s",
        "RELAY_RETENTION",
        settings={"retention": 10.0},
    ),
]


@pytest.fixture(scope="module", autouse=True)
def logins(postgres_server: devstack.Postgres, outbox_template: str) -> Iterator[None]:
    """Logins of which only ``doctor`` is as it should be."""
    made = {
        "doctor": "",
        "doctor_blind": "",
        "doctor_stranger": "",
        "doctor_limited": "connection limit 0",
        "doctor_few": "connection limit 3",
        "doctor_hasty": "",
    }
    with psycopg.connect(postgres_server.dsn, autocommit=True) as person:
        for name, options in made.items():
            person.execute(f"create role {name} login {options}")
            if name != "doctor_stranger":
                person.execute(f"grant relay_relay to {name}")
            if name != "doctor_blind":
                person.execute(f"grant pg_read_all_stats to {name}")
        person.execute("alter role doctor_hasty set synchronous_commit = off")
        yield
        for name in made:
            person.execute(f"drop role {name}")


async def examined(dsn: str, case: Case) -> None:
    if case.damage:
        execute(dsn, case.damage)
    login = {"user": case.user} | case.dsn
    found = await examine_postgres(postgres_dsn=make_conninfo(dsn, **login), **case.settings)
    expect(found, case.check, case.state, case.seen, case.remedy)


async def test_a_healthy_database_has_no_fault(outbox_dsn: str) -> None:
    found = await examine_postgres(postgres_dsn=make_conninfo(outbox_dsn, user="doctor"))
    assert states(found, WARNING, FAULT, SKIPPED) == HEALTHY, shown(found)
    assert all(each.remedy or each.state in {OK, SKIPPED} for each in found)


@pytest.mark.parametrize("case", REFUSED, ids=str)
async def test_why_there_is_no_session_is_named_by_the_check_that_has_failed(
    outbox_dsn: str, case: Case
) -> None:
    await examined(outbox_dsn, case)


@pytest.mark.parametrize("case", SEEDED, ids=str)
async def test_each_misconfiguration_is_named_with_its_remedy(outbox_dsn: str, case: Case) -> None:
    await examined(outbox_dsn, case)


async def test_a_subscription_that_fills_the_outbox_is_named(outbox_dsn: str) -> None:
    execute(outbox_dsn, SUBSCRIBED)
    try:
        case = Case("", "subscription", FAULT, 'of the subscription "feed"', "run the relay where")
        await examined(outbox_dsn, case)
    finally:
        execute(outbox_dsn, UNSUBSCRIBED)


@pytest.mark.parametrize(
    "pooler", [{"refuse": b"unsupported startup parameter: options"}, {"own_pid": True}], ids=str
)
async def test_a_pooler_is_named(outbox_dsn: str, pooler: dict[str, object]) -> None:
    async with pooler_in_front(outbox_dsn, **pooler) as dsn:  # type: ignore[arg-type]
        await examined(dsn, Case("", "pooler", FAULT, "pooler", "name Postgres itself"))


async def test_notifications_that_do_not_arrive_are_named(
    outbox_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "HEARD_WITHIN", 0.3)
    async with deaf_proxy(outbox_dsn) as dsn:
        await examined(dsn, Case("", "notify", WARNING, "did not arrive", "without a pooler"))


async def test_a_ring_that_costs_much_is_named(
    outbox_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "TOO_LONG", 0.0)
    case = Case("", "notify", WARNING, "a commit that rings takes more than", "synchronous standby")
    await examined(outbox_dsn, case)


@contextmanager
def held_by(dsn: str, statement: str, application: str = "psql") -> Iterator[int]:
    """A session that has run ``statement`` in a transaction that stays open; its pid."""
    with psycopg.connect(dsn, application_name=application) as session:
        session.execute(statement)
        yield session.info.backend_pid
        session.rollback()


def advisory(lock_class: int) -> str:
    return f"select pg_advisory_lock({lock_class}, 'relay.outbox'::regclass::oid::int4)"


async def test_who_holds_the_lease_and_is_no_relay_is_named(outbox_dsn: str) -> None:
    with held_by(outbox_dsn, advisory(LEASE_CLASS)) as pid:
        seen, remedy = f"no relay's: pid {pid}", rf"select pg_terminate_backend\({pid}\)"
        await examined(outbox_dsn, Case("", "lease", FAULT, seen, remedy))


async def test_who_holds_the_bell_and_is_no_relay_is_named(outbox_dsn: str) -> None:
    with held_by(outbox_dsn, advisory(BELL_CLASS)) as pid:
        seen, remedy = f"pid {pid}, login postgres", rf"select pg_terminate_backend\({pid}\)"
        await examined(outbox_dsn, Case("", "bell", WARNING, seen, remedy))


@pytest.mark.parametrize(
    ("change", "check", "seen"),
    [
        ("update relay.report set bus_breaker = 'open'", "term", "does not reach NATS"),
        ("select relay.emit('a.b', '1')", "cursor", "backlog 1, but nothing was settled for"),
    ],
)
async def test_a_leader_that_gets_nowhere_is_named(
    outbox_dsn: str, change: str, check: str, seen: str, *, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "LOOK_AGAIN", 0.1)
    execute(outbox_dsn, f"{LEADS} {change}")
    with held_by(outbox_dsn, advisory(LEASE_CLASS), "relay term"):
        await examined(outbox_dsn, Case("", check, FAULT, seen, "checks of NATS"))


async def test_who_locks_the_outbox_is_named_and_costs_one_fault(outbox_dsn: str) -> None:
    with held_by(outbox_dsn, "lock table relay.outbox") as pid:
        await anyio.sleep(1.1)  # a lock of less than a second is nobody's fault
        seen = f"pid {pid}, .* holds outbox in AccessExclusiveLock for"
        remedy = rf"select pg_terminate_backend\({pid}\)"
        await examined(outbox_dsn, Case("", "locks", FAULT, seen, remedy))


async def test_an_old_transaction_is_named(
    outbox_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "OLD", 0.0)
    with held_by(outbox_dsn, "select relay.emit('a.b', '1')", "shop") as pid:
        seen = rf"pid {pid}, login postgres, application 'shop' .*\(idle in transaction\)"
        remedy = rf"select pg_terminate_backend\({pid}\)"
        await examined(outbox_dsn, Case("", "transactions", WARNING, seen, remedy))


async def test_what_may_not_be_seen_is_named_with_the_grant_that_is_missing(
    outbox_dsn: str,
) -> None:
    with held_by(outbox_dsn, "select relay.emit('a.b', '1')") as pid:
        seen, remedy = f"pid {pid}", "^grant pg_read_all_stats to doctor_blind$"
        case = Case("", "transactions", SKIPPED, seen, remedy, user="doctor_blind")
        await examined(outbox_dsn, case)


async def test_nothing_is_changed(outbox_dsn: str) -> None:
    """Also not by a round trip of NOTIFY, nor by a look at what waits."""
    execute(outbox_dsn, "select relay.emit('a.b', '1')")
    look = "select (select c from relay.cursor c)::text, (select count(*) from relay.outbox)"
    before = execute(outbox_dsn, look)
    await examine_postgres(postgres_dsn=make_conninfo(outbox_dsn, user="doctor"))
    assert execute(outbox_dsn, look) == before


@pytest.mark.slow
async def test_a_server_that_accepts_and_says_nothing_is_one_fault(outbox_dsn: str) -> None:
    """R-BOUND."""
    with silent_host() as port:
        found = await examine_postgres(postgres_dsn=make_conninfo(outbox_dsn, port=str(port)))
    expect(found, "postgres", FAULT, "", "frozen")
    assert len(states(found, SKIPPED)) > 20
