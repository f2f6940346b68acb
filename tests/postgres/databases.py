"""What tests of the schema do to databases: statements, client programs, other SQL files."""

import re
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from relay import devstack
from relay.postgres import sqlfiles

Program = Callable[..., str]

TENANT = """\
-- tenant: a column that a later release adds.
--
-- takes    schema (psql variable)
-- locks    outbox, exclusively, for a moment
set search_path = pg_catalog, pg_temp;

alter table :"schema".outbox add column tenant text;
"""


def execute(dsn: str, statement: str) -> list[tuple[object, ...]]:
    """Run statements; return the rows of one that has any."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def programs(server: devstack.Postgres) -> Program:
    """Return what runs a client program of the server's installation, and returns its output."""
    (found,) = (each for each in devstack.find_postgres() if each.major == server.major)

    def run(name: str, *arguments: str) -> str:
        command = [str(found.bin_dir / name), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@contextmanager
def further_databases(
    server: devstack.Postgres, template: str = "template1"
) -> Iterator[Callable[[], str]]:
    """Give what makes further databases, empty or as ``template``; they are dropped at the end."""
    made: list[str] = []

    def make() -> str:
        made.append(f"further_{uuid.uuid4().hex[:12]}")
        return server.create_database(made[-1], template=template)

    yield make
    for name in made:
        server.drop_database(name)


def psql(program: Program, dsn: str, *arguments: str) -> str:
    return program("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", f"--dbname={dsn}", *arguments)


def dumped(program: Program, dsn: str) -> str:
    """Everything pg_dump knows, but for the moments and its own random keys."""
    dump = program("pg_dump", "--no-comments", f"--dbname={dsn}")
    dump = re.sub(r"^\\(un)?restrict .*$", "", dump, flags=re.MULTILINE)
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\+00", "<moment>", dump)


def own_files(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let a copy of the SQL files, which the test may change, be those that are read."""
    shutil.copytree(Path(str(sqlfiles.folder())), folder)
    monkeypatch.setattr(sqlfiles, "folder", lambda: folder)
    forget_files()


@contextmanager
def a_later_release(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Callable[[], None]]:
    """Give what makes the SQL files those of a release with a further migration, a changed view."""

    def release() -> None:
        own_files(monkeypatch, folder)
        (folder / "migrations/0099_tenant.sql").write_text(TENANT)
        view = folder / "views/pending.sql"
        view.write_text(
            view.read_text().replace("select n.id, n.created", "select 1 as one, n.id, n.created")
        )

    yield release
    forget_files()


def forget_files() -> None:
    """Let the SQL files be read anew."""
    sqlfiles.text.cache_clear()
    sqlfiles.names.cache_clear()


def rings(dsn: str) -> object:
    """Whether writers ring the bell."""
    return execute(
        dsn, "select tgenabled::text = 'O' from pg_trigger where tgname = 'relay_notify'"
    )[0][0]


@contextmanager
def rules_before(person: psycopg.Connection, rules: str) -> Iterator[None]:
    """Put ``rules`` before those of pg_hba.conf for the length of the block."""
    (path,) = person.execute("show hba_file").fetchone() or ("",)
    file = Path(path)
    before = file.read_text(encoding="utf-8")
    file.write_text(rules + before, encoding="utf-8")
    person.execute("select pg_reload_conf()")
    yield
    file.write_text(before, encoding="utf-8")
    person.execute("select pg_reload_conf()")
