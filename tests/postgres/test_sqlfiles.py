"""The SQL files as people and psql have them: whole, one by one, and safe from others' names."""

import re
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from relay.cli.migrate import run_migrate
from relay.postgres import migrations, sqlfiles
from relay.postgres.sqlfiles import (
    BELL_CLASS,
    LEASE_CLASS,
    MIGRATION_CLASS,
    folder,
    load,
    names,
    read_all,
    text,
)
from tests.postgres.databases import (
    Program,
    dumped,
    execute,
    forget_files,
    psql,
)

pytestmark = pytest.mark.anyio

ODD = 'Odd "Näme" %s {} \\'
RUN_BY_PEOPLE = [
    *names("functions"),
    *names("migrations"),
    *names("views"),
    *names("triggers"),
    "roles",
]


async def test_the_printed_script_runs_in_psql_and_makes_the_same(
    database: str, fresh: Callable[[], str], program: Program, tmp_path: Path
) -> None:
    printed: list[str] = []
    await run_migrate(
        "host=127.0.0.1 port=1",  # printing needs no database
        "relay",
        notify=None,
        check=False,
        print_sql=True,
        echo=printed.append,
    )
    assert printed[0].startswith("set search_path = pg_catalog, pg_temp;\n")
    file = tmp_path / "all.sql"
    file.write_text("\n".join(printed), encoding="utf-8")
    by_psql = fresh()
    psql(program, by_psql, "-f", str(file))
    await migrations.check(by_psql, "relay")

    await migrations.migrate(database, "relay")
    assert dumped(program, by_psql) == dumped(program, database)


@pytest.mark.parametrize("schema", ["relay", ODD])
async def test_psql_runs_each_file_as_it_lies_in_the_checkout(
    schema: str, database: str, fresh: Callable[[], str], program: Program
) -> None:
    by_psql = fresh()
    execute(by_psql, sql.SQL("create schema {}").format(sql.Identifier(schema)).as_string())
    for name in RUN_BY_PEOPLE:
        psql(program, by_psql, "-1", "-v", f"schema={schema}", "-f", str(folder() / f"{name}.sql"))

    await migrations.migrate(database, schema)
    ledger = sql.SQL("truncate {}.migration").format(sql.Identifier(schema)).as_string()
    execute(database, ledger)
    assert dumped(program, by_psql) == dumped(program, database)


async def test_what_a_superuser_runs_finds_only_postgres_s_own_names(
    database: str, program: Program, tmp_path: Path
) -> None:
    """A schema in the path that others may write to must not run as whoever migrates."""
    traps = " ".join(
        f"create function public.{name} returns {kind} language plpgsql as "
        "$$ begin raise exception 'a trap'; end $$;"
        for name, kind in [
            ("format(text, text, text)", "text"),
            ("format(text, text)", "text"),
            ("quote_ident(name)", "text"),
            ("current_setting(name)", "text"),
            ("pg_get_userbyid(bigint)", "name"),
            ("concat_any(name, text)", "text"),
            ("equal_name(name, name)", "boolean"),
        ]
    )
    execute(database, traps)
    execute(
        database,
        "create operator public.|| (function = public.concat_any, leftarg = name, rightarg = text);"
        "create operator public.<> (function = public.equal_name, leftarg = name, rightarg = name)",
    )
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    execute(database, f"alter database {name} set search_path = public, pg_catalog")
    file = tmp_path / "all.sql"
    file.write_text(migrations.script("relay"), encoding="utf-8")
    psql(program, database, "-f", str(file))
    psql(program, database, "-v", "schema=relay", "-f", str(folder() / "roles.sql"))
    assert await migrations.migrate(database, "relay") == []
    await migrations.check(database, "relay")
    execute(database, "select relay.emit('a.b', '1')")


@pytest.mark.parametrize(
    "name",
    [*RUN_BY_PEOPLE, *names("queries"), *names("adopt"), *names("export"), *names("measure")],
)
def test_every_sql_file_begins_with_what_it_is_for_and_leaves_bodies_to_psql(name: str) -> None:
    content = text(name)
    head = content.partition("\n\n")[0]
    assert content.startswith("-- ")
    assert "-- takes " in head
    assert "locks " in head
    # psql does not put variables into dollar-quoted bodies, so neither may we rely on it.
    for body in re.findall(r"\$(\w*)\$(.*?)\$\1\$", content, flags=re.DOTALL):
        assert ":'schema'" not in body[1]
        assert ':"schema"' not in body[1]


@pytest.mark.parametrize("name", RUN_BY_PEOPLE)
def test_every_sql_file_that_people_run_first_pins_what_names_mean(name: str) -> None:
    statements = [line for line in text(name).splitlines() if line and not line.startswith("--")]
    assert statements[0] == "set search_path = pg_catalog, pg_temp;"


def test_load_leaves_out_the_header_and_puts_in_the_schema_and_nothing_else() -> None:
    loaded = load("queries/campaign", 'a"b').as_string()
    again = loaded.replace('"a""b"', ':"schema"').replace("'a\"b'", ":'schema'")
    header = text("queries/campaign").partition("\nselect")[0] + "\n"
    assert header + again == text("queries/campaign")


def test_the_three_locks_differ() -> None:
    assert len({BELL_CLASS, LEASE_CLASS, MIGRATION_CLASS}) == 3


def test_a_release_installed_over_a_running_relay_is_not_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forget_files()
    read_all()
    monkeypatch.setattr(sqlfiles, "folder", lambda: tmp_path)  # what is there now is another's
    assert migrations.all_steps("relay")
    for kind in ("functions", "migrations", "queries", "triggers", "views"):
        assert all(text(name) for name in names(kind))
    assert text("roles")
