"""``relay dead``: what a person at a terminal and a script behind a pipe see; the exit codes."""

import base64
import json
import logging
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from typer.testing import CliRunner, Result

from relay.cli import app
from relay.cli.dead_show import KEPT

Run = Callable[..., Result]
EVIL = "\x1b[2J[bold red]gone[/]\r\nforged \u202e \x9b31m"
DEAD = """
with written as (
  insert into relay.outbox (id, subject, key, payload)
  overriding system value
  select i, 'orders.placed', %(key)s, '{"n": 1.50}' from unnest(%(ids)s::bigint[]) as i
  returning id, event_id, created_at, subject, key
)
insert into relay.parked (
  id, event_id, created_at, subject, key, attempts, last_error, last_code, dead_at, errors
)
select w.id, w.event_id, w.created_at, w.subject, w.key, 10, %(error)s, 10054,
       clock_timestamp() - interval '1 hour',
       '[{"at": "2026-01-01T00:00:00+00:00", "attempt": 1, "code": 7, "error": "the first"}]'
  from written as w
"""

ON_A_TERMINAL = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that ^C reaches this process
from relay.cli import main
main()
"""


@pytest.fixture
def dsn(outbox_dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in [name for name in os.environ if name.startswith("RELAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RELAY_POSTGRES_DSN", outbox_dsn)
    return outbox_dsn


@pytest.fixture
def look(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def relay(dsn: str) -> Iterator[Run]:
    """Run a command in this process, whose logging is put back afterwards."""
    names = ("", "relay", "nats", "psycopg", "psycopg.pool")
    levels = {name: logging.getLogger(name).level for name in names}
    handlers = list(logging.getLogger().handlers)
    yield lambda *args: CliRunner().invoke(app, args)
    logging.getLogger().handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def die(look: psycopg.Connection, *ids: int, key: str | None = "k", error: str = "no") -> None:
    look.execute(DEAD, {"ids": list(ids), "key": key, "error": error})


def live(look: psycopg.Connection, id_: int) -> None:
    die(look, id_)
    look.execute(
        "update relay.parked set dead_at = null, next_attempt_at = clock_timestamp()"
        " + interval '1h' where id = %s",
        (id_,),
    )


def left(look: psycopg.Connection) -> list[int]:
    """The ids of the dead."""
    rows = look.execute("select id from relay.parked where dead_at is not null order by id")
    return [id_ for (id_,) in rows.fetchall()]


def test_a_list_is_a_table_for_people_and_one_array_for_scripts(
    relay: Run, look: psycopg.Connection
) -> None:
    die(look, 1, 2, error="maximum message size exceeded")
    told = relay("dead", "list")
    assert told.exit_code == 0
    assert [line.split()[0] for line in told.stdout.splitlines()] == ["id", "1", "2"]
    assert "maximum message size exceeded (10054)" in told.stdout
    (first, _) = json.loads(relay("dead", "list", "--json").stdout)
    assert first["id"] == 1
    assert (first["state"], first["subject"], first["key"]) == ("dead", "orders.placed", "k")
    assert (first["attempts"], first["error"]) == (10, "maximum message size exceeded")
    assert first["dead_at"].endswith("+00:00")
    assert "payload" not in first


def test_an_empty_list_is_no_failure(relay: Run) -> None:
    told = relay("dead", "list")
    assert (told.exit_code, told.stdout) == (0, "no dead events, or none that match\n")
    told = relay("dead", "list", "--json", "--key", "nobody's")
    assert (told.exit_code, told.stdout, told.stderr) == (0, "[]\n", "")


def test_a_list_cut_short_says_so_beside_the_array(relay: Run, look: psycopg.Connection) -> None:
    die(look, *range(1, 103))
    told = relay("dead", "list", "--json")
    assert len(json.loads(told.stdout)) == 100
    assert told.stderr == "100 of 102 shown: see --limit\n"
    assert relay("dead", "list", "--limit", "102").stderr == ""


def test_every_filter_reaches_the_list(relay: Run, look: psycopg.Connection) -> None:
    die(look, 1, key="a", error="Too Large")
    die(look, 2, key="b")
    live(look, 3)
    for flags, expected in [
        (["--key", "a"], [1]),
        (["--subject", "orders.*"], [1, 2]),
        (["--subject", "stock.>"], []),
        (["--error", "too large"], [1]),
        (["--error-regex", "^n.$"], [2]),
        (["--code", "10054"], [1, 2]),
        (["--code", "1"], []),
        (["--older-than", "59min"], [1, 2]),
        (["--newer-than", "59min"], []),
        (["--parked"], [1, 2, 3]),
    ]:
        found = json.loads(relay("dead", "list", "--json", *flags).stdout)
        assert [each["id"] for each in found] == expected, flags


def test_what_others_wrote_cannot_steer_the_terminal(relay: Run, look: psycopg.Connection) -> None:
    die(look, 1, error=EVIL)
    look.execute("update relay.parked set key = %s", (EVIL,))
    # What an owner let in that has put the rules aside.
    look.execute("alter table relay.outbox drop constraint outbox_publishable")
    look.execute("update relay.outbox set headers = jsonb_build_object('h', %s::text)", (EVIL,))
    for args in (["list"], ["list", "--parked"], ["show", "1"]):
        told = relay("dead", *args).stdout
        assert not {"\x1b", "\r", "\x9b", "\u202e"} & set(told)
        assert "\nforged" not in told
        assert r"\x1b[2J[bold red]gone[/]\r\nforged \u202e \x9b31m" in told
    assert json.loads(relay("dead", "list", "--json").stdout)[0]["error"] == EVIL


def test_show_tells_everything(relay: Run, look: psycopg.Connection) -> None:
    die(look, 1)
    look.execute("""update relay.outbox set headers = '{"traceparent": "00-1"}'""")
    assert relay("dead", "retry", "1", "--by", "anna").exit_code == 0
    (event_id,) = look.execute("select event_id::text from relay.parked").fetchone() or ()
    told = relay("dead", "show", event_id.upper()).stdout
    for part in [
        f"event      1, {event_id}\n",
        "subject    orders.placed\n",
        "key        k\n",
        f"message id relay-{event_id}-1\n",
        "header     traceparent: 00-1\n",
        "error      2026-01-01T00:00:00+00:00  try 1: the first (7)\n",
        " retry by ",
        " (anna)\n",
        'payload    11 bytes of JSON, laid out\n{\n  "n": 1.50\n}\n',
    ]:
        assert part in told
    report = json.loads(relay("dead", "show", "1", "--json").stdout)
    assert report["message_id"] == f"relay-{event_id}-1"
    assert report["headers"] == {"traceparent": "00-1"}
    assert [error["error"] for error in report["errors"]] == ["the first"]
    assert [decision["action"] for decision in report["decisions"]] == ["retry"]
    assert (report["payload_kind"], report["payload_size"]) == ("json", 11)
    assert (report["payload"], report["payload_base64"]) == ('{"n": 1.50}', None)


def test_a_payload_of_bytes_is_text_if_it_can_be_and_else_a_dump(
    relay: Run, look: psycopg.Connection
) -> None:
    die(look, 1)
    write = "update relay.outbox set payload = null, payload_bytes = %s"
    look.execute(write, ("grüß\x07 dich\n".encode(),))
    assert "grüß\\x07 dich\n" in relay("dead", "show", "1").stdout
    look.execute(write, (b"\xff\x00AB" * 2000,))
    told = relay("dead", "show", "1").stdout
    assert "00000000  ff 00 41 42 ff" in told
    assert f"{KEPT - 16:08x}  ff" in told
    assert f"… and {8000 - KEPT} bytes more: --full shows them\n" in told
    assert f"{8000 - 16:08x}  ff" in relay("dead", "show", "1", "--full").stdout
    report = json.loads(relay("dead", "show", "1", "--json").stdout)
    assert report["payload"] is None
    assert base64.b64decode(report["payload_base64"]) == b"\xff\x00AB" * 2000


def test_a_long_text_is_cut_between_characters(relay: Run, look: psycopg.Connection) -> None:
    die(look, 1)
    look.execute("update relay.outbox set payload = to_json(%s::text)", ("é" * 3000,))
    told = relay("dead", "show", "1").stdout
    assert "é" * ((KEPT - 1) // 2) + "\n" in told
    assert told.endswith(f"… and {6002 - KEPT} bytes more: --full shows them\n")
    assert relay("dead", "show", "1", "--full").stdout.endswith("é" * 3000 + '"\n')


def test_what_is_not_there_is_told_with_what_became_of_it(
    relay: Run, look: psycopg.Connection
) -> None:
    told = relay("dead", "show", "7")
    assert (told.exit_code, told.stdout, told.stderr) == (1, "", "relay: no parked event 7\n")
    die(look, 7)
    assert relay("dead", "drop", "7", "--yes", "--by", "bob").exit_code == 0
    for args in (["show", "7"], ["retry", "7"], ["drop", "7", "--yes"]):
        told = relay("dead", *args)
        assert told.exit_code == 1
        assert told.stderr.startswith("relay: no parked event 7: dropped by ")
        assert "(bob) at 20" in told.stderr


def test_an_id_of_two_events_asks_for_a_uuid(relay: Run, look: psycopg.Connection) -> None:
    die(look, 1)
    look.execute("delete from relay.outbox")
    die(look, 1)
    ids = [id_ for (id_,) in look.execute("select event_id::text from relay.parked").fetchall()]
    told = relay("dead", "show", "1")
    assert told.exit_code == 1
    assert f"name one by its UUID, such as {' and '.join(sorted(ids))}" in told.stderr


def test_an_event_whose_row_is_gone_says_so(relay: Run, look: psycopg.Connection) -> None:
    die(look, 1)
    look.execute("delete from relay.outbox")
    assert "its row in the outbox is gone; no (10054)" in relay("dead", "list").stdout
    told = relay("dead", "show", "1").stdout
    assert "payload    its row in the outbox is gone: nothing can be published" in told
    assert "message id not known" in told
    report = json.loads(relay("dead", "show", "1", "--json").stdout)
    assert (report["is_gone"], report["payload_kind"], report["payload_base64"]) == (
        True,
        None,
        None,
    )


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
    told = relay("dead", action, "--key", "k", "--yes", "--json", "--by", "anna")
    assert (told.exit_code, told.stderr) == (0, "")
    assert json.loads(told.stdout) == {"action": action, "done": 2, "by": "anna", "failed": []}
    assert left(look) == []


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
