"""Runs the demo from the first server's start to the verdict.

    servers up ─► migrate ─► relay ready ─► produce ─► drained ─► relay stopped ─► read back, judge
                                              │ events, seconds or Ctrl-C

Each step ends by a deadline or when nothing moves any more. A first Ctrl-C (or SIGTERM) ends the
workload only, and what was produced is judged; a second one ends everything.
"""

import signal
import sys
from dataclasses import dataclass
from importlib.resources import files

import anyio
import psycopg
from anyio import to_thread
from rich.console import Console

from relay import devstack
from relay.demo.check import compare
from relay.demo.probe import Probe, probe
from relay.demo.readback import read_stream
from relay.demo.relayprocess import STREAM, RelayProcess, relay_process
from relay.demo.report import Result, summarize
from relay.demo.view import show
from relay.demo.workload import Ledger, produce

_STALLED_AFTER = 15.0
_LOOK = 0.1


@dataclass(frozen=True, slots=True)
class Options:
    """What the demo is told.

    Attributes:
        events: stop after exactly so many committed events; None is without such an end.
        seconds: stop after so long; None is without such an end.
        rate: committed events/s of all producers together.
        producers: how many processes.
        quiet: nothing but the result.
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
    with devstack.postgres() as postgres, devstack.nats_server() as nats_server:
        dsn = postgres.create_database("demo")
        with relay_process(dsn, nats_server.url) as relay:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute((files(__package__) / "orders.sql").read_bytes())
            result = anyio.run(_Demo(options, console, dsn, nats_server.url, relay).run)
            if not result.is_good:
                print(f"The relay said last:\n{relay.last_words()}", file=sys.stderr)
            return result


class _Demo:
    """The part that runs on an event loop, once servers and relay are started."""

    def __init__(
        self, options: Options, console: Console, dsn: str, nats_url: str, relay: RelayProcess
    ) -> None:
        self._options = options
        self._console = console
        self._dsn = dsn
        self._nats_url = nats_url
        self._relay = relay
        self._ledger = Ledger()
        self._stop = anyio.Event()
        self._stop_asked = False
        self._interrupted = False
        self._phase = "Running: Ctrl-C ends the workload"

    async def run(self) -> Result:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._answer_signals, tasks.cancel_scope)
            result = await self._judged()
            tasks.cancel_scope.cancel()
        if self._interrupted:
            raise KeyboardInterrupt
        return result

    async def _judged(self) -> Result:
        async with probe(self._dsn, self._nats_url) as look:
            await look.until_ready(self._relay)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch_relay)
                if self._console.is_terminal and not self._options.quiet:
                    tasks.start_soon(show, look, self._ledger, lambda: self._phase, self._console)
                await self._produce()
                self._phase = "Waiting until the stream holds everything"
                await self._until_drained(look)
                tasks.cancel_scope.cancel()
        await to_thread.run_sync(self._relay.stop)
        stream = await read_stream(self._nats_url, STREAM)
        events = self._ledger.events
        return summarize(len(events), stream, compare(events, stream))

    async def _produce(self) -> None:
        options = self._options
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._end_workload)
            await produce(
                self._dsn,
                producers=options.producers,
                rate=options.rate,
                events=options.events,
                ledger=self._ledger,
                stop=self._stop,
            )
            tasks.cancel_scope.cancel()

    async def _end_workload(self) -> None:
        if self._options.seconds is not None:
            await anyio.sleep(self._options.seconds)
            self._stop.set()

    async def _until_drained(self, look: Probe) -> None:
        most, since = -1, anyio.current_time()
        while most < len(self._ledger.events):
            stored, now = await look.stored(), anyio.current_time()
            if stored > most:
                most, since = stored, now
            elif now - since > _STALLED_AFTER:
                return  # the verdict will name what is missing
            await anyio.sleep(_LOOK)

    async def _watch_relay(self) -> None:
        while True:
            self._relay.check()
            await anyio.sleep(_LOOK)

    async def _answer_signals(self, scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                self._interrupted = self._stop_asked
                self._stop_asked = True
                self._stop.set()
                if self._interrupted:
                    scope.cancel()
