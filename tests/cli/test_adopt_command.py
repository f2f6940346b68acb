"""`relay adopt` and `relay migrate --format`: what is shown, asked, refused."""

from pathlib import Path

import psycopg
import pytest

from relay import devstack
from tests.cli.dead import Run
from tests.postgres.adopting import DEBEZIUM, events
from tests.postgres.databases import execute, programs, psql

TABLE = ("--table", "public.outboxevent")
INSERT = "insert into outboxevent values (gen_random_uuid(), 'a', '1', 'b', '1')"


def triggers(look: psycopg.Connection) -> int:
    rows = look.execute("select from pg_trigger where tgname = 'relay_adopt'").fetchall()
    return len(rows)


def test_it_asks_shows_the_sql_and_takes_it_off_again(relay: Run, look: psycopg.Connection) -> None:
    look.execute(DEBEZIUM)
    asked = relay("adopt", *TABLE)
    assert (asked.exit_code, triggers(look)) == (2, 0)
    assert "create or replace trigger relay_adopt after insert on" in asked.stderr
    assert "say --yes to change the table" in asked.stderr
    look.execute(INSERT)
    backfill = ("--backfill", "--order-by", "type", "--where", "aggregateid <> 'x'")
    done = relay("adopt", *TABLE, "--map", "subject=x.{type}", "--yes", *backfill)
    assert (done.exit_code, done.stdout) == (0, "public.outboxevent is adopted, 1 rows copied\n")
    look.execute(INSERT)
    rows = look.execute("select subject from relay.outbox").fetchall()
    assert rows == [("x.b",), ("x.b",)]
    assert relay("adopt", *TABLE, "--undo").exit_code == 2
    assert triggers(look) == 1
    done = relay("adopt", *TABLE, "--undo", "-y")
    assert (done.exit_code, done.stdout) == (0, "public.outboxevent is not adopted any more\n")
    assert triggers(look) == 0


def test_what_is_printed_runs_in_psql(
    relay: Run,
    dsn: str,
    look: psycopg.Connection,
    postgres_server: devstack.Postgres,
    tmp_path: Path,
) -> None:
    look.execute(DEBEZIUM)
    program = programs(postgres_server)
    for arguments in ((), ("--backfill", "--order-by", "type")):
        look.execute("truncate relay.outbox, public.outboxevent")
        look.execute(INSERT)
        printed = relay("adopt", *TABLE, "--print", *arguments)
        assert (printed.exit_code, triggers(look)) == (0, 0)
        file = tmp_path / "adopt.sql"
        file.write_text(printed.stdout)
        psql(program, dsn, "-f", str(file))
        look.execute(INSERT)
        assert len(events(dsn)) == (2 if arguments else 1)
        file.write_text(relay("adopt", *TABLE, "--undo", "--print").stdout)
        psql(program, dsn, "-f", str(file))
        assert triggers(look) == 0


@pytest.mark.parametrize("wrong", ["subject", "", "=x"])
def test_what_is_no_mapping_is_wrong_usage(
    relay: Run, look: psycopg.Connection, wrong: str
) -> None:
    look.execute(DEBEZIUM)
    done = relay("adopt", *TABLE, "--map", wrong, "--print")
    assert done.exit_code == 2
    assert "--map" in done.stderr or "is no mapping" in done.stderr


def test_files_are_written_and_nothing_else_is_done(relay: Run, tmp_path: Path) -> None:
    done = relay("migrate", "--format", "psql", "--out", str(tmp_path / "db"))
    assert done.exit_code == 0
    assert done.stdout.splitlines() == sorted(path.name for path in (tmp_path / "db").iterdir())
    done = relay("migrate", "--format", "psql", "--out", str(tmp_path / "db"))
    assert done.stdout == "nothing was missing\n"
    assert relay("migrate", "--format", "django", "--check").exit_code == 2
    file = tmp_path / "file"
    file.touch()
    refused = relay("migrate", "--format", "alembic", "--out", str(file))
    assert (refused.exit_code, f"--out {file}: " in refused.stderr) == (2, True)


def test_an_outbox_that_is_not_there_is_asked_for(relay: Run, dsn: str) -> None:
    execute(dsn, DEBEZIUM)
    done = relay("adopt", *TABLE, "--schema", "bus", "--print")
    assert (done.exit_code, "run `python -m relay migrate`" in done.stderr) == (3, True)
