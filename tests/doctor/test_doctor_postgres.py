"""Each misconfiguration of Postgres is found and named by the right check with the right remedy."""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from relay import devstack
from relay.doctor import connecting, outbox, postgres
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
from tests.doctor.seeded_postgres import REFUSED, SEEDED
from tests.postgres.databases import execute
from tests.postgres.deaf_proxy import deaf_proxy
from tests.postgres.test_connecting import pooler_in_front, silent_host

pytestmark = pytest.mark.anyio

HEALTHY = {"durability": WARNING, "lease": WARNING}
"""What is not ok in a test's database: the cluster does not sync, and no relay leads."""

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


async def test_a_healthy_database_has_no_fault(
    outbox_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "TOO_LONG", 2.0)  # this machine may be busy
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
    monkeypatch.setattr(trial, "TOO_LONG", 2.0)
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


async def test_a_lock_that_comes_later_costs_one_fault_as_well(
    outbox_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "_LOCK_TIMEOUT", {"lock_timeout": "100ms"})
    monkeypatch.setattr(postgres, "BRIEF_LOCK", 60.0)
    with held_by(outbox_dsn, "lock table relay.cursor") as pid:
        found = await examine_postgres(postgres_dsn=make_conninfo(outbox_dsn, user="doctor"))
        assert pid
    expect(found, "outbox", FAULT, "lock timeout", "end who locks it: select pid, .* from pg_locks")


async def test_what_is_sent_in_the_clear_is_named(
    outbox_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "is_loopback", lambda _host: False)
    case = Case("", "tls", WARNING, "is not encrypted .sslmode=prefer", "sslmode=verify-full")
    await examined(outbox_dsn, case)


async def test_a_bug_of_one_check_is_a_fault_and_hides_no_other(
    outbox_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(session: object, schema: str) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(outbox, "reasons", broken)
    await examined(outbox_dsn, Case("", "parked", FAULT, "KeyError: 'oops'", "please report it"))


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
