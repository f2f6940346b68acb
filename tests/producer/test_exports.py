"""`relay migrate --format`: psql, Alembic and Django bring the outbox in by files of their own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relay import devstack
from relay.cli.migrate import write_files
from relay.postgres import exports, migrations
from relay.postgres.sqlfiles import names
from tests.postgres.databases import (
    Program,
    a_later_release,
    dumped,
    execute,
    further_databases,
    programs,
    psql,
)
from tests.producer.adapters import pg_variables, url_of

pytestmark = pytest.mark.anyio

ODD = '$relay$"Näme" """ %s \\'
NUMBERED = [name.removeprefix("migrations/") for name in names("migrations")]
EARLIER = [f"relay_{name}" for name in NUMBERED]
ENVIRONMENT = """
from alembic import context
from sqlalchemy import create_engine
url = context.get_x_argument(as_dictionary=True)["url"]
if context.is_offline_mode():
    context.configure(url=url, literal_binds=True, dialect_opts={"paramstyle": "named"})
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(url).connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
"""
DJANGO = """
import os, sys
from django.core.management import execute_from_command_line
from django.conf import settings
settings.configure(
    USE_TZ=True, INSTALLED_APPS=["relay.producer.django"],
    MIGRATION_MODULES={"relay_outbox": "shop_outbox"},
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql",
                           "NAME": os.environ["PGDATABASE"]}},
)
execute_from_command_line(["manage.py", *sys.argv[1:]])
"""
OWN = """
from alembic import op
revision = "shop"
down_revision = {!r}
def upgrade():
    op.execute("create table orders (id int)")
"""


@pytest.fixture
def program(one_postgres: devstack.Postgres) -> Program:
    return programs(one_postgres)


@pytest.fixture
def fresh(one_postgres: devstack.Postgres) -> Iterator[Callable[[], str]]:
    with further_databases(one_postgres) as make:
        yield make


def python(*arguments: str, folder: Path, **variables: str) -> str:
    top = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{top}:{folder}"} | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alembic(folder: Path, dsn: str, *arguments: str) -> str:
    (folder / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s\n")
    (folder / "env.py").write_text(ENVIRONMENT)
    command = ("-m", "alembic", "-x", f"url={url_of(dsn, 'psycopg')}", *arguments)
    return python(*command, folder=folder)


def django(folder: Path, dsn: str, *arguments: str) -> str:
    (folder / "shop_outbox/__init__.py").touch()
    return python("-c", DJANGO, *arguments, folder=folder, **pg_variables(dsn))


def by_psql(program: Program, dsn: str, folder: Path) -> None:
    for file in sorted(folder.glob("*.sql")):
        psql(program, dsn, "-f", str(file))


async def assert_the_same(program: Program, dsn: str, other: str, schema: str = "relay") -> None:
    """The database is what ``migrate`` would have made of an empty one."""
    await migrations.check(dsn, schema)
    await migrations.migrate(other, schema)
    for each in (dsn, other):
        quoted = '"' + schema.replace('"', '""') + '"'
        execute(each, f"create table rows as table {quoted}.migration; truncate {quoted}.migration")
        execute(each, f"insert into {quoted}.migration select * from rows order by version")
        execute(each, "drop table rows; drop table if exists alembic_version, django_migrations")
    assert dumped(program, dsn) == dumped(program, other)


async def test_psql_runs_the_files_any_number_of_times(
    fresh: Callable[[], str], program: Program, tmp_path: Path
) -> None:
    dsn = fresh()
    exports.write(tmp_path, ODD, "psql")
    assert exports.write(tmp_path, ODD, "psql") == []
    for _ in range(2):
        by_psql(program, dsn, tmp_path)
    await assert_the_same(program, dsn, fresh(), ODD)


async def test_the_files_and_migrate_take_turns(
    one_dsn: str, program: Program, tmp_path: Path
) -> None:
    execute(one_dsn, "select relay.emit('a.b', '1')")
    exports.write(tmp_path, "relay", "psql")
    (tmp_path / "relay_functions.sql").write_text("-- of an earlier release")
    (tmp_path / "relay_0001_outbox.sql").write_text("-- run already")
    assert exports.write(tmp_path, "relay", "psql") == ["relay_functions.sql"]
    by_psql(program, one_dsn, tmp_path)
    assert execute(one_dsn, "select count(*) from relay.outbox") == [(1,)]
    execute(one_dsn, "drop function relay.emit(text, text, text, jsonb, text, interval)")
    execute(one_dsn, "update relay.migration set checksum = 'older' where version = 0")
    by_psql(program, one_dsn, tmp_path)
    await migrations.check(one_dsn, "relay")
    execute(one_dsn, "select relay.emit('a.b', '1')")


async def test_a_later_release_s_database_is_left_alone(
    one_dsn: str, program: Program, tmp_path: Path
) -> None:
    exports.write(tmp_path, "relay", "psql")
    execute(one_dsn, "insert into relay.migration values (99, '0099_tenant', 'x')")
    execute(one_dsn, "update relay.migration set checksum = 'later' where version = 0")
    by_psql(program, one_dsn, tmp_path)
    assert execute(one_dsn, "select checksum from relay.migration where version = 0") == [
        ("later",)
    ]


@pytest.fixture
def later_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    with a_later_release(monkeypatch, tmp_path / "sql") as release:
        yield release


@pytest.mark.slow
async def test_alembic_upgrades_to_each_release(
    fresh: Callable[[], str],
    program: Program,
    tmp_path: Path,
    later_release: Callable[[], None],
) -> None:
    pytest.importorskip("alembic")
    folder, dsn = tmp_path / "shop", fresh()
    write_files(folder / "versions", "relay", "alembic")
    (functions,) = (path.stem for path in folder.glob("versions/relay_functions_*.py"))
    (folder / "versions/shop.py").write_text(OWN.format(functions))
    alembic(folder, dsn, "upgrade", "head")  # one transaction; the application's own path is kept
    execute(dsn, "select * from public.orders")
    await migrations.check(dsn, "relay")
    offline = fresh()
    script = tmp_path / "offline.sql"
    script.write_text(alembic(folder, offline, "upgrade", "head", "--sql"))
    psql(program, offline, "-f", str(script))
    await migrations.check(offline, "relay")

    later_release()
    new = exports.write(folder / "versions", "relay", "alembic")
    assert new[0] == "relay_0099_tenant.py"
    assert new[1].startswith("relay_functions_")
    assert len(new) == 2
    assert exports.write(folder / "versions", "relay", "alembic") == []
    alembic(folder, dsn, "upgrade", "heads")
    execute(dsn, "select one from relay.pending")
    execute(dsn, "drop table public.orders")
    await assert_the_same(program, dsn, fresh())


@pytest.mark.slow
async def test_django_migrates_to_each_release(
    fresh: Callable[[], str],
    program: Program,
    tmp_path: Path,
    later_release: Callable[[], None],
) -> None:
    pytest.importorskip("django")
    dsn = fresh()
    folder = tmp_path / "shop"
    exports.write(folder / "shop_outbox", "relay", "django")
    said = django(folder, dsn, "migrate")
    assert all(f"relay_outbox.{name}... OK" in said for name in EARLIER)
    assert "No changes" in django(folder, dsn, "makemigrations", "--check")
    await migrations.check(dsn, "relay")
    later_release()
    exports.write(folder / "shop_outbox", "relay", "django")
    assert "relay_outbox.relay_0099_tenant... OK" in django(folder, dsn, "migrate")
    django(folder, dsn, "migrate", "relay_outbox", "zero")  # leaves the outbox
    await assert_the_same(program, dsn, fresh())
