"""The command line, as its own process: exit codes, streams, flags, signals, what it imports."""

import json
import os
import signal
import subprocess
import sys

import anyio
import psycopg
import pytest

from relay.commands.frame import exit_codes
from relay.commands.run import until_stopped
from relay.errors import AlreadyRunning, BusOutage, SchemaError, SettingsError, StreamError
from relay.settings import Settings
from relay.settings.described import describe

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
    for setting in describe(Settings):
        assert setting.flag in told
        assert f"Default: {setting.default}." in told or not setting.default
        assert f"prefer {setting.variable}." in told or not setting.secret
    assert "--no-notify" in told
    assert "--config" in told


def test_migrate_and_status_have_the_flags_that_they_use():
    assert "--nats-url" not in relay("migrate", "--help").stdout
    assert "--schema" in relay("migrate", "--help").stdout
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
        *("run", "--batch-size", "x", "--no-notify", "--config", str(tmp_path / "relay.toml")),
        RELAY_POLL_INTERVAL="15",
        RELAY_POSTGRES_DSN=f"not a dsn {CANARY}",
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


@pytest.mark.parametrize("bug", [ZeroDivisionError(), ExceptionGroup("tasks", [KeyError("x")])])
def test_a_bug_looks_like_a_bug(bug):
    with pytest.raises(type(bug)), exit_codes():
        raise bug


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
insert into relay.parked (id, event_id, created_at, subject, last_error, dead_at, held_by)
values (1, gen_random_uuid(), now(), 'a.b', 'no', now(), ''),
       (2, gen_random_uuid(), now(), 'a.b', 'no', null, ''),
       (3, gen_random_uuid(), now(), 'a.b', 'full', null, 'stream S')
"""


def test_the_breakers_are_what_the_leader_reports_and_without_one_the_lag_decides(database):
    migrated(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(PARK)
        connection.execute(
            "insert into relay.outbox (subject, payload, created_at)"
            " values ('a.b', '1', now() - interval '1 hour')"
        )
        connection.execute("update relay.cursor set lag_breaker = 'closed', bus_breaker = 'open'")
        report = status(database)
        assert (report["circuit_breaker"], report["bus_breaker"]) == ("open", None)
        assert (report["parked"], report["dead"], report["held"]) == (3, 1, 1)
        connection.execute(
            "select pg_advisory_lock(1919247482, 'relay.outbox'::regclass::oid::int4)"
        )
        report = status(database)
        assert (report["circuit_breaker"], report["bus_breaker"]) == ("closed", "open")
        told = relay("status", RELAY_POSTGRES_DSN=database).stdout
    assert "parked     3 events (1 dead, 1 held)" in told
    assert "breakers   lag closed, bus open" in told


def test_a_leader_is_who_holds_the_lease_of_this_schema_and_no_other(database):
    migrated(database, "shop")
    migrated(database, "other")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("update shop.cursor set holder = 'me', epoch = 7")
        assert status(database, "--schema", "shop")["leader"] is None
        lease = "select pg_advisory_lock(1919247482, '{}.outbox'::regclass::oid::int4)"
        connection.execute(lease.format("other"))
        assert status(database, "--schema", "shop")["leader"] is None
        connection.execute(lease.format("shop"))
        report = status(database, "--schema", "shop")
    assert (report["leader"], report["epoch"]) == ("me", 7)


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
            process.send_signal(signal.SIGTERM)
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

    def __init__(self, *, stops):
        self.stops = stops
        self.told = 0
        self.stopped = anyio.Event()

    async def run(self):
        os.kill(os.getpid(), signal.SIGTERM)
        await self.stopped.wait()
        if not self.stops:
            os.kill(os.getpid(), signal.SIGINT)
            await anyio.sleep_forever()

    def stop(self):
        self.told += 1
        self.stopped.set()


@pytest.mark.anyio
async def test_the_first_signal_stops_and_waits():
    busy = Busy(stops=True)
    with anyio.fail_after(10):
        assert await until_stopped(busy) is True
    assert busy.told == 1


@pytest.mark.anyio
async def test_the_second_signal_lets_go_at_once():
    busy = Busy(stops=False)
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
