"""The command line: help, usage, exit codes, the form of errors, what it imports."""

import json
import os
import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
import typer
from typer.testing import CliRunner

from relay.cli import app
from relay.cli.options import exit_codes
from relay.errors import AlreadyRunning, BusOutage, SchemaError, SettingsError, StreamError
from relay.settings.model import SETTINGS
from tests.cli.process import migrated, relay

CANARY = "c4n4ry-in-the-mine"


def test_help_names_every_command_and_imports_neither_database_nor_broker():
    code = (
        "import sys\nfrom relay.cli import main\nsys.argv = ['relay', '--help']\n"
        "try:\n    main()\n"
        "finally:\n    print({'psycopg', 'nats', 'relay.app'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert done.stderr == "set()\n"
    for command in ("migrate", "run", "demo", "status", "dead"):
        assert command in done.stdout


COMMANDS = [
    [],
    *(["migrate"], ["run"], ["status"], ["doctor"], ["demo"], ["dashboards"], ["dead"]),
    *(["dead", "list"], ["dead", "show"], ["dead", "retry"], ["dead", "drop"]),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_no_type_of_python_and_breaks_no_sentence(command):
    done = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "80"})
    assert (done.exit_code, done.stderr) == (0, "")
    assert not re.search(r"<\w+|list\[|\bNone\b", done.stdout)
    prose = done.stdout.partition("╭")[0].splitlines()
    for line, following in pairwise(prose[2:]):
        words = following.split()
        # A line ends where its paragraph does, or where the next word has no room.
        assert not (line.strip() and words) or len(f"{line.rstrip()} {words[0]}") >= 79, line


def test_help_ends_with_three_examples_that_are_commands():
    *_, title, one, two, three = [
        line for line in relay("--help", COLUMNS="80").stdout.splitlines() if line.strip()
    ]
    assert title.strip() == "Examples:"
    for line in (one, two, three):
        assert re.match(r"   relay (\w+)[\w -]*( && relay \w+)?  +[A-Z].*\.", line)
        for command in re.findall(r"relay (\w+)", line):
            assert [command] in COMMANDS


def test_both_scripts_are_the_command_line():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == dict.fromkeys(("relay", "relay-outbox"), "relay.cli:main")
    code = "import sys; from relay.cli import main; sys.argv[0] = '/bin/relay-outbox'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Usage: relay-outbox [OPTIONS] COMMAND" in done.stdout


def test_completion_is_typer_s_own():
    done = relay("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "complete -o default -F" in done.stdout
    code = "import sys; from relay.cli import main; sys.argv[0] = '/bin/relay'; main()"
    completing = {"_RELAY_COMPLETE": "complete_bash", "COMP_WORDS": "relay st", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **completing},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["status"])


@pytest.mark.parametrize("args", [["--help"], ["dead", "--help"], ["run", "--bogus"], ["bogus"]])
def test_outside_a_terminal_there_are_no_colours(args):
    colourful = {"GITHUB_ACTIONS": "true", "PY_COLORS": "1", "TERM": "xterm-256color"}
    done = relay(*args, **colourful, RELAY_LOG_FORMAT="text", NO_COLOR="")
    assert done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("args", "environ", "event"),
    [
        (["run", "--bogus"], {}, "No such option: --bogus"),
        (["run", "--bogus", "--log-format", "json"], {}, "No such option: --bogus"),
        (["bogus"], {"RELAY_LOG_FORMAT": "json"}, "No such command 'bogus'."),
        (["status", "--log-format=json", "--bogus"], {}, "No such option: --bogus"),
        (["status", "--log-format", "json", "--check", "--watch"], {}, "exclude each other"),
        (["dead", "show", "x"], {"RELAY_LOG_FORMAT": "json"}, "neither an event's id"),
    ],
)
def test_where_logs_are_json_wrong_usage_is_a_json_line(args, environ, event):
    done = relay(*args, **environ)
    (line,) = in_lines(done)
    assert (done.returncode, line["exit_code"], line["level"]) == (2, 2, "critical")
    assert event in line["event"]


def test_wrong_usage_is_text_for_people_who_want_text():
    for args in (["run", "--log-format", "text", "--bogus"], ["status", "--bogus"]):
        done = relay(*args)
        assert done.returncode == 2
        assert done.stderr.startswith("Usage: ")
    done = relay("dead", RELAY_LOG_FORMAT="json")
    assert (done.returncode, done.stderr) == (2, "")
    assert "Usage: " in done.stdout


def test_run_has_a_flag_for_every_setting_with_its_default_and_where_secrets_belong():
    told = " ".join(relay("run", "--help").stdout.replace("│", " ").split())
    for setting in SETTINGS:
        assert setting.flag in told
        assert f"Default: {setting.default}." in told or not setting.default
        assert f"prefer {setting.variable}." in told or not setting.secret
    assert "--notify" not in told
    assert "--no-stream-create" in told
    assert "--config" in told


def test_migrate_and_status_have_the_flags_that_they_use():
    assert "--nats-url" not in relay("migrate", "--help").stdout
    assert "--schema" in relay("migrate", "--help").stdout
    assert "--no-notify" in relay("migrate", "--help").stdout
    assert "--nats-url" in relay("status", "--help").stdout
    assert "--poll-interval" not in relay("status", "--help").stdout


def test_the_version_is_told():
    done = relay("--version")
    assert (done.returncode, done.stdout) == (0, "relay 0.1.0\n")


@pytest.mark.parametrize(
    "args", [["nonsense"], ["run", "--nonsense"], ["migrate", "--check", "--print"], []]
)
def test_wrong_usage_exits_with_2(args):
    assert relay(*args).returncode == 2


@pytest.mark.parametrize("args", [["where", "\udcff"], ["status", "--postgres-password=\udce9"]])
def test_an_argument_that_is_no_text_is_wrong_usage_and_named(args):
    done = subprocess.run(
        [sys.executable, "-m", "relay", *args], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == f"relay: argument {len(args)} is not UTF-8\n"


def test_every_fault_of_the_settings_is_a_line_and_the_exit_code_is_2(tmp_path):
    (tmp_path / "relay.toml").write_text("retention = 5\n")
    done = relay(
        *("run", "--batch-size", "x", "--config", str(tmp_path / "relay.toml")),
        RELAY_POLL_INTERVAL="15",
        RELAY_POSTGRES_DSN=f"not a dsn {CANARY}",
        RELAY_LOG_FORMAT="text",
    )
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert [line.split()[1] for line in lines] == [
        "postgres_dsn",
        "retention",
        "poll_interval",
        "batch_size",
    ]
    assert lines[3] == (
        "relay: batch_size = 'x' (flag --batch-size) is not a whole number: write digits only"
    )
    assert CANARY not in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (SettingsError(["one", "two"]), 2, "relay: one\nrelay: two\n"),
        (SchemaError("no schema"), 3, "relay: no schema\n"),
        (StreamError("no stream"), 3, "relay: no stream\n"),
        (BusOutage("away"), 1, "relay: away\n"),
        (AlreadyRunning("twice"), 1, "relay: twice\n"),
        (BaseExceptionGroup("tasks", [BusOutage("away")]), 1, "relay: away\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_each_kind_of_error_has_its_exit_code_and_lines(error, code, told, capsys):
    with pytest.raises(SystemExit) as caught, exit_codes():
        raise error
    assert caught.value.code == code
    assert capsys.readouterr().err == told


ROW = 'Failing row contains (7, {"card": "' + CANARY
BUGS = [
    ZeroDivisionError("a bug"),
    ExceptionGroup("tasks", [KeyError("x"), ValueError("a bug")]),
    psycopg.errors.CheckViolation(f'a bug: new row violates "c"\nDETAIL:  {ROW}\nCONTEXT:  SQL'),
    ExceptionGroup("tasks", [RuntimeError(f"a bug DETAIL: {ROW}")]),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: type(bug).__name__)
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_bug_shows_its_traceback_and_nothing_of_a_row(bug, log_format, capsys, own_logging):
    with pytest.raises(SystemExit) as caught, exit_codes(log_format):
        raise bug
    assert caught.value.code == 1
    told = capsys.readouterr().err
    assert "Traceback (most recent call last):" in told
    assert "a bug" in told
    assert CANARY not in told
    if log_format == "json":
        (line,) = map(json.loads, told.splitlines())
        assert (line["level"], line["logger"]) == ("critical", "relay.cli")
        assert "test_cli.py" in line["traceback"]


@pytest.mark.parametrize("code", [0, 1, 130])
def test_what_a_command_exits_with_is_no_bug(code):
    with pytest.raises(typer.Exit) as caught, exit_codes("json"):
        raise typer.Exit(code)
    assert caught.value.exit_code == code
    with pytest.raises(typer.BadParameter), exit_codes():
        raise typer.BadParameter("no")


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (SettingsError(["one", "two"]), 2, ["one", "two"]),
        (SchemaError("no schema"), 3, ["no schema"]),
        (StreamError("no stream"), 3, ["no stream"]),
        (BusOutage(f"away\nDETAIL:  {ROW}"), 1, ["away"]),
        (BaseExceptionGroup("tasks", [BusOutage("away"), KeyboardInterrupt()]), 130, []),
    ],
)
def test_where_logs_are_json_every_fatal_error_is_a_json_line(
    error, code, told, capsys, own_logging
):
    with pytest.raises(SystemExit) as caught, exit_codes("json"):
        raise error
    assert caught.value.code == code
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["exit_code"]) for line in lines] == [(each, code) for each in told]


def in_lines(done):
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_a_service_tells_its_end_as_its_log_and_other_commands_as_they_are_asked():
    done = relay("run", "--batch-size", "x", RELAY_POLL_INTERVAL="15")
    assert done.returncode == 2
    assert [line["event"].split()[0] for line in in_lines(done)] == ["poll_interval", "batch_size"]
    done = relay("run", "--batch-size", "x", RELAY_LOG_FORMAT="text")
    assert done.stderr.startswith("relay: batch_size = 'x' ")
    done = relay("status", RELAY_POSTGRES_DSN="host=127.0.0.1 port=1", RELAY_LOG_FORMAT="JSON")
    (line,) = in_lines(done)
    assert done.returncode == 1
    assert "Connection refused" in line["event"]


def test_a_log_format_in_the_file_counts_before_the_settings_are_judged(tmp_path):
    (tmp_path / "relay.toml").write_text('log_format = "json"\nretention = 5\n')
    done = relay("status", "--config", str(tmp_path / "relay.toml"))
    assert (done.returncode, [line["exit_code"] for line in in_lines(done)]) == (2, [2])


@pytest.mark.parametrize("command", ["migrate", "status"])
def test_a_database_that_is_away_is_one_line_and_exit_1(command):
    done = relay(command, RELAY_POSTGRES_DSN=f"host=127.0.0.1 port=1 password={CANARY}")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "Connection refused" in done.stderr
    assert CANARY not in done.stderr


def test_the_sql_is_printed_without_a_database():
    done = relay("migrate", "--print", RELAY_POSTGRES_DSN="host=127.0.0.1 port=1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "create table" in done.stdout


def test_an_empty_database_is_not_as_required_until_it_is_migrated(database):
    for args in (["status", "--json"], ["migrate", "--check"]):
        done = relay(*args, RELAY_POSTGRES_DSN=database)
        assert (done.returncode, done.stdout) == (3, "")
        assert "python -m relay migrate" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not re.search(r"select|from|LINE|\^", done.stderr)
    assert relay("migrate", RELAY_POSTGRES_DSN=database).returncode == 0
    assert relay("migrate", "--check", RELAY_POSTGRES_DSN=database).returncode == 0
    assert relay("status", RELAY_POSTGRES_DSN=database).returncode == 0


@pytest.mark.parametrize("command", [["status"], ["migrate", "--check"], ["dead", "list"]])
def test_a_database_without_an_outbox_is_named_as_that_and_not_as_sql_alone(database, command):
    done = relay(*command, RELAY_POSTGRES_DSN=database)
    assert done.returncode == 3
    assert done.stderr.startswith("relay: the outbox is not there, or not whole (")
    assert done.stderr.endswith("): run `python -m relay migrate`\n")


def test_a_server_that_is_away_is_one_sentence_said_once(database):
    done = relay("status", RELAY_POSTGRES_DSN="host=127.0.0.1 port=1 user=u dbname=d")
    refused = 'connection to server at "127.0.0.1", port 1 failed: Connection refused'
    assert (done.returncode, done.stderr) == (1, f"relay: {refused}\n")


@pytest.mark.parametrize("other", ["--check", "--print"])
def test_a_look_at_the_schema_does_not_switch_the_bell(other):
    done = relay("migrate", "--no-notify", other)
    assert done.returncode == 2
    assert "change the database" in done.stderr


def test_a_reader_that_goes_away_is_no_bug(database):
    migrated(database)
    command = [sys.executable, "-m", "relay", "status"]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as output:
        kept = {**os.environ, "RELAY_POSTGRES_DSN": database}
        done = subprocess.run(
            command, env=kept, stdout=output, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"")
