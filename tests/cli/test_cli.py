"""The command line, as its own process: exit codes, streams, flags, signals, what it imports."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys

import anyio
import nats
import psycopg
import pytest
import typer

from relay.cli.options import exit_codes
from relay.cli.run import until_stopped
from relay.errors import AlreadyRunning, BusOutage, SchemaError, SettingsError, StreamError
from relay.settings.model import SETTINGS

CANARY = "c4n4ry-in-the-mine"


def relay(*args, **environ):
    kept = {name: text for name, text in os.environ.items() if not name.startswith("RELAY_")}
    return subprocess.run(
        [sys.executable, "-m", "relay", *args],
        env={**kept, "COLUMNS": "200", "NO_COLOR": "1", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


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
    assert relay("migrate", RELAY_POSTGRES_DSN=database).returncode == 0
    assert relay("migrate", "--check", RELAY_POSTGRES_DSN=database).returncode == 0
    assert relay("status", RELAY_POSTGRES_DSN=database).returncode == 0


def test_status_tells_what_waits_and_that_nobody_leads(database):
    migrated(database, "shop")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("select shop.emit('orders.paid', '{}'::json) from generate_series(1, 3)")
    report = status(database, "--schema", "shop")
    assert report["backlog"] == 3
    assert report["backlog_is_capped"] is False
    assert 0 < report["lag_seconds"] < 60
    assert report["oldest_created_at"].endswith("+00:00")
    assert (report["parked"], report["dead"], report["delivered"]) == (0, 0, 0)
    assert (report["leader"], report["epoch"]) == (None, 0)
    assert (report["circuit_breaker"], report["bus_breaker"]) == ("closed", None)
    assert report["cursor"] == {"base": "1:1:", "target": None, "last_id": 0}
    assert report["stream"] is None
    told = relay("status", "--schema", "shop", RELAY_POSTGRES_DSN=database).stdout
    assert "leader     none" in told
    assert "backlog    3 events" in told
    assert "breakers   lag closed, bus unknown" in told


PARK = """
delete from relay.parked;
insert into relay.parked (id, event_id, created_at, subject, last_error, dead_at, held_by)
values (1, gen_random_uuid(), now(), 'a.b', 'no', now(), ''),
       (2, gen_random_uuid(), now(), 'a.b', 'no', null, ''),
       (3, gen_random_uuid(), now(), 'a.b', 'full', null, 'stream S')
"""


def test_the_breakers_are_what_the_leader_reports_and_without_one_the_lag_decides(database):
    migrated(database)
    with psycopg.connect(database, autocommit=True, application_name="relay term") as connection:
        connection.execute(PARK)
        connection.execute(
            "insert into relay.outbox (subject, payload, created_at)"
            " values ('a.b', '1', now() - interval '1 hour')"
        )
        connection.execute("update relay.report set lag_breaker = 'closed', bus_breaker = 'open'")
        report = status(database)
        assert (report["circuit_breaker"], report["bus_breaker"]) == ("open", None)
        assert (report["parked"], report["dead"], report["held"]) == (2, 1, 1)
        assert 0 < report["held_lag_seconds"] < 60
        connection.execute(
            "select pg_advisory_lock(1919247482, 'relay.outbox'::regclass::oid::int4)"
        )
        report = status(database)
        assert (report["circuit_breaker"], report["bus_breaker"]) == ("closed", "open")
        told = relay("status", RELAY_POSTGRES_DSN=database).stdout
    assert re.search(r"parked     2 events \(1 held, the oldest for \d", told)
    assert "dead       1 events" in told
    assert "breakers   lag closed, bus open" in told


def test_a_leader_is_who_holds_the_lease_of_this_schema_and_no_other(database):
    migrated(database, "shop")
    migrated(database, "other")
    with psycopg.connect(database, autocommit=True, application_name="relay term") as connection:
        connection.execute("update shop.cursor set holder = 'me', epoch = 7")
        assert status(database, "--schema", "shop")["leader"] is None
        lease = "select pg_advisory_lock(1919247482, '{}.outbox'::regclass::oid::int4)"
        connection.execute(lease.format("other"))
        assert status(database, "--schema", "shop")["leader"] is None
        connection.execute(lease.format("shop"))
        report = status(database, "--schema", "shop")
    assert (report["leader"], report["epoch"]) == ("me", 7)


@pytest.mark.parametrize("application", ["psql", "", "relay status", "o'brien"])
def test_who_holds_the_lease_and_is_no_relay_is_named_and_does_not_lead(database, application):
    migrated(database)
    with psycopg.connect(database, autocommit=True, application_name=application) as stranger:
        stranger.execute(LEAD)
        who = f"pid {stranger.info.backend_pid}, login postgres, application {application!r}"
        report = status(database)
        assert (report["leader"], report["lease_taken_by"]) == (None, who)
        told = relay("status", "--check", RELAY_POSTGRES_DSN=database)
    assert told.returncode == 1
    assert f"leader     none: the lease is held by who is no relay: {who}; end it" in told.stdout
    assert f"relay: nobody leads: the lease is held by who is no relay: {who}" in told.stderr


def test_a_broker_that_is_away_is_part_of_the_status(database):
    migrated(database)
    report = status(database, "--stream", "S", "--nats-url", "nats://127.0.0.1:1")
    assert (report["stream"]["name"], report["stream"]["path"]) == ("S", None)
    assert "127.0.0.1:1" in report["stream"]["error"]
    told = relay(
        "status", "--stream", "S", "--nats-url", "nats://127.0.0.1:1", RELAY_POSTGRES_DSN=database
    )
    assert told.returncode == 0
    assert "stream     S by no path: " in told.stdout
    assert "nats       127.0.0.1:1" in told.stdout


def test_nats_is_told_of_without_a_stream_as_well(database, nats_server):
    migrated(database)
    assert status(database, "--nats-url", nats_server.url)["nats"] == "answers"
    assert "127.0.0.1:1" in status(database, "--nats-url", "nats://127.0.0.1:1")["nats"]
    report = status(database, "--stream", "NONE", "--nats-url", nats_server.url)
    assert report["nats"] == "answers"
    assert "no stream NONE" in report["stream"]["error"]
    told = relay("status", "--nats-url", nats_server.url, RELAY_POSTGRES_DSN=database).stdout
    assert "nats       answers" in told


def test_a_status_that_is_checked_exits_with_1_and_the_reasons(database, nats_server):
    migrated(database)
    there = ["--nats-url", nats_server.url]

    def checked(*args, **environ):
        done = relay("status", "--check", *args, RELAY_POSTGRES_DSN=database, **environ)
        return done.returncode, done.stderr.splitlines(), done.stdout

    nobody = "relay: nobody leads: no relay runs, or none can take the lease"
    code, reasons, told = checked(*there)
    assert (code, reasons) == (1, [nobody])
    assert told.startswith("schema ")
    code, reasons, told = checked("--json", "--nats-url", "nats://127.0.0.1:1")
    assert (code, reasons[0]) == (1, nobody)
    assert reasons[1].startswith("relay: NATS is away from here: 127.0.0.1:1")
    assert json.loads(told)["leader"] is None
    with psycopg.connect(database, autocommit=True, application_name="relay term") as connection:
        connection.execute(LEAD)
        assert checked(*there)[:2] == (0, [])
        connection.execute("update relay.report set lag_breaker = 'open', bus_breaker = 'open'")
        code, reasons, _ = checked(*there)
        assert (code, len(reasons)) == (1, 2)
        assert reasons[0].startswith("relay: events are late")
        assert reasons[1] == "relay: NATS is away from the leader"
        code, _, told = checked(*there, "--json", RELAY_LOG_FORMAT="json")
        assert (code, json.loads(told)["circuit_breaker"]) == (1, "open")
    assert relay("status", *there, RELAY_POSTGRES_DSN=database).returncode == 0
    assert relay("status", "--check", "--watch").returncode == 2


LEAD = """
update relay.cursor set holder = 'me', epoch = 7;
update relay.report set epoch = 7, lag_breaker = 'closed', bus_breaker = 'closed',
                        reported_at = clock_timestamp();
select pg_advisory_lock(1919247482, 'relay.outbox'::regclass::oid::int4)
"""


def test_a_status_tells_no_weakness_of_the_stream_each_time(database, nats_server):
    migrated(database)
    stream = f"WEAK_{database.rpartition('_')[2][:8]}"
    config = {"name": stream, "subjects": [f"{stream}.>"], "storage": "memory", "no_ack": False}
    asyncio.run(made(nats_server.url, {**config, "duplicate_window": 1_000_000_000}))
    for form in ([], ["--json"]):
        done = relay(
            *("status", "--stream", stream, "--nats-url", nats_server.url, *form),
            RELAY_POSTGRES_DSN=database,
        )
        assert (done.returncode, done.stderr) == (0, "")


async def made(url, config):
    client = await nats.connect(url)
    answer = await client.request(
        f"$JS.API.STREAM.CREATE.{config['name']}", json.dumps(config).encode(), timeout=5
    )
    await client.close()
    assert "error" not in json.loads(answer.data)


def test_run_leads_and_delivers_until_it_is_told_to_stop(database, nats_server):
    migrated(database)
    environ = {**os.environ, "RELAY_POSTGRES_DSN": database, "RELAY_NATS_URL": nats_server.url}
    stream = f"CLI_{os.getpid()}_{database.rpartition('_')[2][:8]}"
    command = [sys.executable, "-m", "relay", "run", "--stream", stream, "--log-format", "json"]
    command += ["--stream-subjects", f"{stream}.>", "--stream-create", "--http", "off"]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
        try:
            events = []
            for line in process.stderr:
                events.append(json.loads(line)["event"])
                if events[-1].startswith("publishing by"):
                    break
            with psycopg.connect(database, autocommit=True) as connection:
                connection.execute("select relay.emit(%s, '{}'::json)", [f"{stream}.paid"])
                delivered(connection, 1)
            report = status(database, "--stream", stream, "--nats-url", nats_server.url)
            process.send_signal(signal.SIGHUP)
            events += [json.loads(line)["event"] for line in process.stderr]
            assert process.wait(10) == 0
        finally:
            process.kill()
    assert events[0] == "starting"
    assert "leading" in events
    assert events[-1] == "stopped"
    assert report["leader"]
    assert (report["epoch"], report["delivered"], report["backlog"]) == (1, 1, 0)
    assert report["stream"]["path"] == "fast ingest"
    assert report["stream"]["messages"] == 1


class Busy:
    """A relay that ends when it is told to, or only when it is cancelled."""

    def __init__(self, *, stops, by=signal.SIGTERM):
        self.stops = stops
        self.by = by
        self.told = 0
        self.stopped = anyio.Event()

    async def run(self):
        os.kill(os.getpid(), self.by)
        await self.stopped.wait()
        if not self.stops:
            os.kill(os.getpid(), signal.SIGINT)
            await anyio.sleep_forever()

    def stop(self):
        self.told += 1
        self.stopped.set()


@pytest.mark.anyio
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_the_first_signal_stops_and_waits(by):
    busy = Busy(stops=True, by=by)
    with anyio.fail_after(10):
        assert await until_stopped(busy) is True
    assert busy.told == 1


@pytest.mark.anyio
async def test_a_hangup_that_nohup_has_ignored_stops_nothing():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        busy = Busy(stops=True, by=signal.SIGHUP)
        with anyio.move_on_after(0.5) as waited:
            await until_stopped(busy)
        assert waited.cancelled_caught
        assert busy.told == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


@pytest.mark.anyio
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGHUP])
async def test_the_second_signal_lets_go_at_once(by):
    busy = Busy(stops=False, by=by)
    with anyio.fail_after(10):
        assert await until_stopped(busy) is False
    assert busy.told == 1


@pytest.mark.anyio
async def test_an_error_of_the_relay_comes_through_as_itself():
    class Broken(Busy):
        async def run(self):
            raise SchemaError("no schema")

    with pytest.raises(SchemaError, match="no schema"):
        await until_stopped(Broken(stops=True))


def migrated(database, schema="relay"):
    done = relay("migrate", "--schema", schema, RELAY_POSTGRES_DSN=database)
    assert done.returncode == 0, done.stderr


def status(database, *args):
    done = relay("status", "--json", *args, RELAY_POSTGRES_DSN=database)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def delivered(connection, count):
    """Wait for the settlement of ``count`` events."""
    for _ in range(1_000):
        [(seen,)] = connection.execute("select delivered from relay.status").fetchall()
        if seen >= count:
            return
        connection.execute("select pg_sleep(0.02)")
    pytest.fail(f"{count} events were not settled within 20 s")
