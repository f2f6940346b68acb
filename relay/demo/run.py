"""Runs the demo from the first server's start to the findings.

    servers up ─► migrate ─► relay ready ─► produce ─► drained ─► relay stopped ─► read back, check
                                              │ events, seconds or Ctrl-C

Each step ends by a deadline or when nothing moves any more. A first Ctrl-C (or SIGTERM) ends the
workload only, and what was produced is checked; a second one ends everything. The relay is two
processes, ``python -m relay migrate`` and ``run``; nothing of it is imported here.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import anyio
import psycopg
from anyio import to_thread
from rich.console import Console

from relay import devstack
from relay.audit.oracle import compare
from relay.audit.stream import read_stream
from relay.demo.producer import Workload
from relay.demo.view import Probe, Result, probe, show, summarize
from relay.devstack.sandbox import Sandbox, failed, tail

_STREAM = "DEMO"
_MIGRATE_TIMEOUT = 60.0
_READY_TIMEOUT = 15.0
_STOP_TIMEOUT = 10.0
_STALLED_AFTER = 15.0
_POLL = 0.1


@dataclass(frozen=True, slots=True)
class Options:
    """What the demo is to do.

    The workload ends after exactly ``events`` committed events or after ``seconds``; None is
    without such an end. ``rate`` is committed events/s of all producers together. ``quiet`` shows
    nothing but the result.
    """

    events: int | None
    seconds: float | None
    rate: float
    producers: int
    quiet: bool


def run(options: Options, console: Console) -> Result:
    """Run the demo; nothing of it is left when this returns or raises.

    Raises:
        DevstackError: a server, the relay or a producer is missing or failed; says why. Alone, or
            in a group if that happened on the event loop.
        KeyboardInterrupt: Ctrl-C before the workload began, or for a second time.
    """
    with (
        devstack.postgres() as postgres,
        devstack.nats_server() as nats_server,
        Sandbox("demo") as sandbox,
    ):
        dsn = postgres.create_database("demo")
        relay = _Relay(sandbox, dsn, nats_server.url)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute((files(__package__) / "orders.sql").read_bytes())
        workload = Workload(
            dsn, producers=options.producers, rate=options.rate, events=options.events
        )
        result = anyio.run(_Demo(options, console, relay, workload).run)
        if not result.is_good:
            print(f"The relay's log ends with:\n{tail(relay.log).strip()}", file=sys.stderr)
        return result


class _Relay:
    """Migrates, then runs a relay until ``stop`` or the sandbox's end."""

    def __init__(self, sandbox: Sandbox, dsn: str, nats_url: str) -> None:
        self.dsn = dsn
        self.nats_url = nats_url
        # What is set for somebody's real relay must not reach this one.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RELAY_", "PG"))}
        self._environment = {
            **kept,
            "RELAY_POSTGRES_DSN": dsn,
            "RELAY_NATS_URL": nats_url,
            "RELAY_STREAM": _STREAM,
            "RELAY_STREAM_SUBJECTS": "orders.>",
            "RELAY_STREAM_CREATE": "true",
            "RELAY_RETENTION": "1h",
            "RELAY_LOG_FORMAT": "json",
            "RELAY_HTTP": "off",
        }
        self._sandbox = sandbox
        log = sandbox.folder / "migrate.log"
        if sandbox.reap(self._spawn("migrate", log), _MIGRATE_TIMEOUT) != 0:
            raise failed("python -m relay migrate failed", log)
        self.log = sandbox.folder / "relay.log"
        self._process = self._spawn("run", self.log)

    def check(self) -> None:
        """Raise DevstackError with its last log lines if it has ended by itself."""
        code = self._process.poll()
        if code is not None:
            raise failed(f"the relay ended by itself with exit code {code}", self.log)

    def stop(self) -> None:
        """End it with SIGTERM.

        Raises:
            DevstackError: it had ended before, took longer than 10 s, or did not exit with 0.
        """
        self.check()
        self._process.send_signal(signal.SIGTERM)
        code = self._sandbox.reap(self._process, _STOP_TIMEOUT)
        if code == -signal.SIGKILL:
            raise failed(f"the relay did not end within {_STOP_TIMEOUT:.0f} s", self.log)
        if code != 0:
            raise failed(f"the relay exited with {code} after SIGTERM", self.log)

    def _spawn(self, command: str, log: Path) -> subprocess.Popen[bytes]:
        return self._sandbox.spawn(
            [sys.executable, "-m", "relay", command],
            log=log,
            tidy_end=signal.SIGTERM,
            env=self._environment,
            cwd=Path.cwd(),
        )


@dataclass(slots=True)
class _Demo:
    """The part that runs on an event loop, once servers and relay are started."""

    options: Options
    console: Console
    relay: _Relay
    workload: Workload
    interrupts: int = 0
    phase: str = "Running: Ctrl-C ends the workload"

    async def run(self) -> Result:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._handle_signals, tasks.cancel_scope)
            result = await self._deliver_and_check()
            tasks.cancel_scope.cancel()
        if self.interrupts > 1:
            raise KeyboardInterrupt
        return result

    async def _deliver_and_check(self) -> Result:
        relay, workload = self.relay, self.workload
        async with probe(relay.dsn, relay.nats_url, _STREAM) as look:
            await self._until_ready(look)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch_relay)
                tasks.start_soon(self._stop_in_time)
                if self.console.is_terminal and not self.options.quiet:
                    tasks.start_soon(show, look, workload, lambda: self.phase, self.console)
                await workload.run()
                self.phase = "Waiting until the stream holds everything"
                await self._until_drained(look)
                tasks.cancel_scope.cancel()
        await to_thread.run_sync(relay.stop)
        stream = await read_stream(relay.nats_url, _STREAM)
        return summarize(len(workload.events), stream, compare(workload.events, stream))

    async def _until_ready(self, look: Probe) -> None:
        """Wait until the relay leads, so that its start counts in no figure."""
        with anyio.move_on_after(_READY_TIMEOUT):
            while not await look.is_ready():
                self.relay.check()
                await anyio.sleep(_POLL)
            return
        raise failed(f"the relay is not ready after {_READY_TIMEOUT:.0f} s", self.relay.log)

    async def _stop_in_time(self) -> None:
        if self.options.seconds is not None:
            await anyio.sleep(self.options.seconds)
            self.workload.stop()

    async def _until_drained(self, look: Probe) -> None:
        most, since = -1, anyio.current_time()
        while most < len(self.workload.events):
            stored, now = await look.stored(), anyio.current_time()
            if stored > most:
                most, since = stored, now
            elif now - since > _STALLED_AFTER:
                return  # the findings will name what is missing
            await anyio.sleep(_POLL)

    async def _watch_relay(self) -> None:
        while True:
            self.relay.check()
            await anyio.sleep(_POLL)

    async def _handle_signals(self, scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                self.interrupts += 1
                self.workload.stop()
                if self.interrupts > 1:
                    scope.cancel()
