"""``relay run``: it delivers until a signal, and what a second one does."""

import json
import os
import signal
import subprocess
import sys

import anyio
import psycopg
import pytest

from relay.cli.run import until_stopped
from relay.errors import SchemaError
from tests.cli.process import migrated, status


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


def delivered(connection, count):
    """Wait for the settlement of ``count`` events. What was published is reported apart from it."""
    for _ in range(1_000):
        found = connection.execute("select delivered, backlog from relay.status").fetchall()
        [(published, backlog)] = found
        if published >= count and not backlog:
            return
        connection.execute("select pg_sleep(0.02)")
    pytest.fail(f"{count} events were not settled within 20 s")
