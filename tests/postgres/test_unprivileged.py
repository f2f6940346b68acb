"""Migrating as logins that are no superusers, as on a managed Postgres, or have no right."""

import uuid
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from relay import devstack
from relay.errors import SchemaError, StoreOutage
from relay.postgres import migrations
from relay.postgres.operator import DeadEvents, Wanted
from relay.postgres.sqlfiles import folder
from tests.postgres.databases import execute, programs, psql

pytestmark = pytest.mark.anyio


@pytest.fixture
def schema() -> str:
    """A name of its own: roles belong to the cluster."""
    return f"s{uuid.uuid4().hex[:8]}"


@pytest.fixture
def login(postgres_server: devstack.Postgres, database: str) -> Iterator[Callable[..., str]]:
    """Makes a login without any right and returns its connection string."""
    made: list[str] = []

    def make(attributes: str = "") -> str:
        made.append(f"login_{uuid.uuid4().hex[:8]}")
        execute(database, f"create role {made[-1]} login {attributes}")
        return make_conninfo(database, user=made[-1])

    yield make
    name = conninfo_to_dict(database)["dbname"]
    execute(database, f"alter database {name} owner to current_user")
    for role in made:
        execute(database, f"drop owned by {role} cascade; drop role {role}")


def user(dsn: str) -> str:
    return str(conninfo_to_dict(dsn)["user"])


def grant_create(database: str, dsn: str) -> None:
    """Let a login create schemas here."""
    name = conninfo_to_dict(database)["dbname"]
    execute(database, f"grant create on database {name} to {user(dsn)}")


async def test_an_unreachable_server_is_an_outage_that_keeps_the_password(database: str) -> None:
    dsn = make_conninfo(database, port=1, password="canary-of-a-password")
    for attempt in (migrations.migrate, migrations.check):
        with pytest.raises(StoreOutage) as outage:
            await attempt(dsn, "relay")
        assert "canary" not in str(outage.value)


async def test_a_login_without_rights_is_told_so(database: str, login: Callable[..., str]) -> None:
    with pytest.raises(SchemaError, match=r"permission denied.*may create it"):
        await migrations.migrate(login(), "relay")


async def test_a_login_that_may_not_make_roles_migrates_without_them(
    database: str, login: Callable[..., str], schema: str
) -> None:
    dsn = login()
    grant_create(database, dsn)
    said: list[str] = []
    done = await migrations.migrate(dsn, schema, say=said.append)
    assert done[:2] == ["applied functions and views", "applied 0001_outbox"]
    (line,) = said
    assert f'the roles of schema "{schema}" were left out' in line
    assert "migrate --print" in line
    assert execute(dsn, f"select {schema}.emit('a.b', '{{}}') is not null") == [(True,)]
    assert execute(dsn, f"select 1 from pg_roles where rolname = '{schema}_relay'") == []
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await migrations.verify(connection, schema)  # the owner can do all that the relay does


async def test_roles_added_by_a_person_leave_the_login_able_to_migrate(
    postgres_server: devstack.Postgres, database: str, login: Callable[..., str], schema: str
) -> None:
    dsn = login()
    grant_create(database, dsn)
    left_out: list[str] = []
    await migrations.migrate(dsn, schema, say=left_out.append)
    assert left_out
    roles = str(folder() / "roles.sql")
    psql(programs(postgres_server), database, "-v", f"schema={schema}", "-f", roles)

    execute(database, f"update {schema}.migration set checksum = 'older' where version = 0")
    said: list[str] = []
    done = await migrations.migrate(dsn, schema, notify=False, say=said.append)
    assert done[0] == "applied functions and views"
    assert said == []


@pytest.mark.parametrize("attributes", ["createrole", "superuser"])
async def test_who_may_make_roles_makes_them_and_can_migrate_again(
    attributes: str, database: str, login: Callable[..., str], schema: str
) -> None:
    dsn = login(attributes)
    grant_create(database, dsn)
    said: list[str] = []
    await migrations.migrate(dsn, schema, say=said.append)
    execute(database, f"update {schema}.migration set checksum = 'older' where version = 0")
    await migrations.migrate(dsn, schema, notify=False, say=said.append)
    assert said == []
    assert owners(database, schema) == [(f"{schema}_owner",)]


def owners(database: str, schema: str) -> list[tuple[object, ...]]:
    return execute(
        database,
        f"""
        select distinct pg_get_userbyid(o.owner) from (
          select relowner from pg_class where relnamespace = '{schema}'::regnamespace
          union all
          select proowner from pg_proc where pronamespace = '{schema}'::regnamespace
          union all
          select nspowner from pg_namespace where nspname = '{schema}'
        ) as o (owner)
        """,
    )


async def test_where_no_login_is_a_superuser_everything_is_set_up_and_works(
    database: str, login: Callable[..., str], schema: str
) -> None:
    """A managed Postgres: one login that owns the database and may make roles does it all."""
    admin = login("createrole createdb")
    execute(
        database, f"alter database {conninfo_to_dict(database)['dbname']} owner to {user(admin)}"
    )
    for name in ("producer", "relay", "operator", "monitor"):
        execute(admin, f"create role {schema}_{name}_login login")
    await migrations.migrate(admin, schema)
    for name in ("producer", "relay", "operator", "monitor"):
        execute(admin, f"grant {schema}_{name} to {schema}_{name}_login")
    as_ = {
        name: make_conninfo(database, user=f"{schema}_{name}_login")
        for name in ("producer", "relay", "operator", "monitor")
    }

    execute(as_["producer"], f"select {schema}.emit('a.b', '1', key => 'k')")
    execute(as_["producer"], f"select {schema}.emit_bytes('a.b', '\\x01')")
    execute(
        as_["producer"],
        f"insert into {schema}.outbox (subject, payload) values ('a.b', '1') returning id",
    )
    async with await psycopg.AsyncConnection.connect(as_["relay"], autocommit=True) as relay:
        await migrations.verify(relay, schema)
        await relay.execute(
            f"insert into {schema}.parked (id, event_id, created_at, subject, key, last_error,"
            f" dead_at) select id, event_id, created_at, subject, key, 'no', now()"
            f" from {schema}.outbox"
        )
        await relay.execute(f"update {schema}.outbox set xid = pg_current_xact_id()")
    async with DeadEvents.open(as_["operator"], schema) as dead_events:
        found = await dead_events.find(Wanted(), 10)
        assert found.as_of is not None
        done: list[int] = []
        for action, events in (("retry", found.events[:1]), ("drop", found.events[1:])):
            await dead_events.decide(
                action,  # type: ignore[arg-type]
                events,
                by="anna",
                as_of=found.as_of,
                done=done.extend,
            )
        assert done == [1, 2, 3]
        (decision,) = await dead_events.decisions("1")
        assert decision.decided_by == f"{schema}_operator_login (anna)"
    assert execute(as_["monitor"], f"select backlog, parked from {schema}.status") == [(3, 1)]

    execute(admin, f"alter schema {schema} rename to {schema}b")
    await migrations.migrate(admin, f"{schema}b")
    assert await migrations.migrate(admin, f"{schema}b", notify=False) == [
        "switched the bell off: writers do not notify, the relay polls"
    ]
    execute(as_["producer"], f"select {schema}b.emit('a.b', '1')")
    for name in as_:
        execute(admin, f"drop role {schema}_{name}_login")


@pytest.mark.parametrize("role", ["owner", "producer", "relay", "operator", "monitor"])
@pytest.mark.parametrize("power", ["login", "superuser", "bypassrls", "createrole"])
async def test_a_role_that_can_do_more_than_a_group_is_refused(
    database: str, schema: str, role: str, power: str
) -> None:
    """Whoever has that login would have been given everything."""
    execute(database, f"create role {schema}_{role} {power}")
    with pytest.raises(SchemaError, match=f"{schema}_{role} exists and can log in, or has a power"):
        await migrations.migrate(database, schema)
    assert execute(database, f"select to_regnamespace('{schema}') is null") == [(True,)]
    execute(database, f"alter role {schema}_{role} nologin nosuperuser nobypassrls nocreaterole")
    await migrations.migrate(database, schema)


async def test_a_database_in_another_encoding_is_refused_and_stays_as_it_was(
    postgres_server: devstack.Postgres, database: str
) -> None:
    name = f"latin_{uuid.uuid4().hex[:8]}"
    execute(
        database,
        f"create database {name} template template0 encoding 'LATIN1' "
        "locale_provider libc locale 'C'",
    )
    dsn = make_conninfo(database, dbname=name)
    with pytest.raises(SchemaError, match="needs a database in UTF8, this one is in LATIN1"):
        await migrations.migrate(dsn, "relay")
    assert execute(dsn, "select to_regnamespace('relay') is null") == [(True,)]
    postgres_server.drop_database(name)
