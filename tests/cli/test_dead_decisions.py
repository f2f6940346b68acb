"""``relay dead retry`` and ``drop``: who is asked, what is done, the exit codes."""

import json
import os
import pty
import select
import subprocess
import sys
import time

import psycopg
import pytest

from tests.cli.dead import Run, die, left, live

ON_A_TERMINAL = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that ^C reaches this process
from relay.cli import main
main()
"""


def test_named_events_are_retried_at_once_and_each_that_cannot_be_is_named(
    relay: Run, look: psycopg.Connection
) -> None:
    die(look, 1, 2)
    live(look, 3)
    (uuid,) = look.execute("select event_id::text from relay.parked where id = 2").fetchone() or ()
    told = relay("dead", "retry", "1", uuid, "3", "4")
    assert (told.exit_code, told.stdout) == (1, "retried 2 dead events\n")
    assert told.stderr.splitlines()[0] == "relay: no parked event 4"
    assert told.stderr.splitlines()[1].startswith("relay: event 3 is not dead but retrying")
    assert left(look) == []
    told = relay("dead", "retry", "1")
    assert (told.exit_code, told.stdout) == (1, "")
    assert "event 1 is not dead" in told.stderr


@pytest.mark.parametrize("action", ["retry", "drop"])
def test_where_nobody_can_answer_nothing_is_done_without_yes(
    relay: Run, look: psycopg.Connection, action: str
) -> None:
    die(look, 1, 2)
    told = relay("dead", action, "--all")
    assert (told.exit_code, told.stdout) == (2, "")
    assert (
        told.stderr == f"relay: nobody is there to be asked: say --yes to {action} 2 dead events\n"
    )
    assert relay("dead", "drop", "1").exit_code == 2
    assert left(look) == [1, 2]
    told = relay("dead", action, "--subject", ">", "--yes", "--json", "--by", "anna")
    assert (told.exit_code, told.stderr) == (0, "")
    assert json.loads(told.stdout) == {"action": action, "done": 2, "by": "anna", "failed": []}
    assert left(look) == []


def test_where_logs_are_json_what_failed_is_json_lines(
    relay: Run, look: psycopg.Connection
) -> None:
    die(look, 1)
    for args, events in (
        (["show", "4"], ["no parked event 4"]),
        (["retry", "1", "4"], ["no parked event 4"]),
        (["drop", "--all", "--yes"], ["no dead events, or none that match"]),
    ):
        told = relay("dead", *args, "--log-format", "json")
        lines = [json.loads(line) for line in told.stderr.splitlines()]
        assert (told.exit_code, [line["event"] for line in lines]) == (1, events)


def test_a_later_event_that_was_dropped_counts_neither_as_published_nor_as_waiting(
    relay: Run, look: psycopg.Connection
) -> None:
    die(look, 1, 2, 3)
    look.execute("update relay.cursor set base = pg_current_snapshot()")
    look.execute("delete from relay.parked where id = 3")  # as if it was stored
    assert relay("dead", "drop", "2", "--yes").exit_code == 0
    told = relay("dead", "retry", "--key", "k", "--dry-run", "--json")
    report = json.loads(told.stdout)
    assert (report["would"], report["published"], report["waiting"]) == (1, [3], [])


@pytest.mark.parametrize("action", ["retry", "drop"])
def test_a_decision_about_nothing_fails_and_says_so(relay: Run, action: str) -> None:
    told = relay("dead", action, "--all", "--yes")
    assert (told.exit_code, told.stdout) == (1, "")
    assert told.stderr == "relay: no dead events, or none that match\n"
    report = json.loads(relay("dead", action, "--all", "--yes", "--json").stdout)
    assert (report["done"], report["failed"]) == (0, ["no dead events, or none that match"])


def test_wrong_usage_exits_with_2_and_changes_nothing(relay: Run, look: psycopg.Connection) -> None:
    die(look, 1)
    for args in [
        ["retry"],
        ["drop", "--yes"],
        ["drop", "1", "--all"],
        ["retry", "--all", "--key", "k"],
        ["retry", "1", "--key", "k"],
        ["retry", "x"],
        ["retry", "-1"],
        ["show", "99999999999999999999"],
        ["show"],
        ["list", "--subject", "a..b"],
        ["list", "--subject", "a.>.b"],
        ["list", "--older-than", "5"],
        ["list", "--limit", "0"],
        ["list", "--error-regex", "("],
        ["list", "--code", "3000000000"],
        ["retry", "--code", "3000000000", "--yes"],
        ["drop", "--code", "-1", "--yes"],
        ["drop", "--all", "--yes", "--by", " "],
    ]:
        told = relay("dead", *args)
        assert (told.exit_code, told.stdout) == (2, ""), args
    assert left(look) == [1]


def test_the_audit_names_who_runs_the_command_unless_told_otherwise(
    relay: Run, look: psycopg.Connection
) -> None:
    die(look, 1)
    assert relay("dead", "drop", "1", "--yes").exit_code == 0
    (by,) = look.execute("select decided_by from relay.decision").fetchone() or ()
    assert by.startswith(f"{look.info.user} (")
    assert "@" in by


def test_a_login_without_the_role_and_a_missing_schema_exit_with_3(
    relay: Run, look: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in (["list"], ["show", "1"], ["retry", "1"], ["drop", "--all", "--yes"]):
        told = relay("dead", *command, "--schema", "nowhere")
        assert (told.exit_code, told.stdout) == (3, "")
        assert "python -m relay migrate" in told.stderr
    name = f"nobody_{look.info.dbname}"
    look.execute(f"create role {name} login")
    try:
        monkeypatch.setenv("PGUSER", name)
        told = relay("dead", "list", "--postgres-dsn", without_user(look))
        assert (told.exit_code, told.stdout) == (3, "")
        assert 'grant the role "relay_operator" to this login' in told.stderr
    finally:
        look.execute(f"drop role {name}")


def without_user(look: psycopg.Connection) -> str:
    parts = look.info.get_parameters()
    return f"host={parts['host']} port={parts['port']} dbname={parts['dbname']}"


@pytest.mark.parametrize(
    ("answer", "code", "kept"), [("y", 0, []), ("n", 1, [1]), ("\x03", 130, [1])]
)
def test_a_person_at_a_terminal_is_asked_and_shown_what_it_is_about(
    dsn: str, look: psycopg.Connection, answer: str, code: int, kept: list[int]
) -> None:
    die(look, 1, error="too [bold]large")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, "dead", "drop", "--all"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        start_new_session=True,
    ) as process:
        os.close(theirs)
        told = read_until(ours, b"for good? Type y for yes: ")
        os.write(ours, answer.encode() + b"\n")
        assert process.wait(20) == code
        told += read_rest(ours)
    os.close(ours)
    assert b"too [bold]large (10054)" in told
    assert b"Drop 1 dead event for good?" in told
    assert (b"dropped 1 dead event" in told) is (answer == "y")
    assert (b"nothing was changed" in told) is (answer == "n")
    assert left(look) == kept


def read_until(terminal: int, end: bytes) -> bytes:
    told = b""
    deadline = time.monotonic() + 20
    while not told.endswith(end):
        assert select.select([terminal], [], [], deadline - time.monotonic())[0], told
        told += os.read(terminal, 4096)
    return told


def read_rest(terminal: int) -> bytes:
    told = b""
    try:
        while part := os.read(terminal, 4096):
            told += part
    except OSError:  # Linux says so when the other side is closed
        pass
    return told
