"""The measured relay, in a process of its own: ``python -m bench.subject DSN NATS_URL STREAM``.

It is the library itself, with a stopwatch around its bus. It says when it leads, runs until
SIGTERM or until ``--events`` are delivered, and prints one JSON object: the time from the term's
begin to the first page's PubAck and to the last one's, its peak memory, with ``--delays`` those
from ``created_at`` to the PubAck, and with ``--samples`` the moment of every event's PubAck. STREAM
"-" is none: the relay finds each subject's by itself. With ``--http PORT`` it serves its page.
"""

import json
import re
import resource
import signal
import time
from array import array
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import anyio
import typer

from bench.figures import percentile
from bench.peers.base import READY
from relay import Relay, Settings
from relay.app import bus_options
from relay.cli.run import freeze
from relay.core.event import Event
from relay.core.outcome import Outcome
from relay.facts import Fact, PageDelivered, TermBegan
from relay.http.service import Service
from relay.jetstream.bus import JetStreamBus
from relay.jetstream.options import BusOptions
from relay.otel.export import Scrape, exported
from relay.ports import Permit


class Stopwatch(JetStreamBus):
    """The bus with a stopwatch, which notes what the relay tells as well."""

    def __init__(self, options: BusOptions, *, sample: bool, delays: bool) -> None:
        """With ``sample`` note every event's PubAck, with ``delays`` its delay."""
        super().__init__(options)
        self._sample = sample
        self._note_delays = delays
        self.acked_at: dict[str, float] = {}
        self.delays = array("f")
        self.began = self.ended = self.cpu_began = self.cpu_ended = 0.0
        self.first_ended = 0.0
        self.delivered = self.first_delivered = 0

    async def publish(
        self, events: Sequence[Event], permit: Permit, *, closed: Collection[str] = ()
    ) -> Sequence[Outcome]:
        """Publish, and note when the answers had come."""
        outcomes = await super().publish(events, permit, closed=closed)
        if self._sample:
            now = time.time()
            for event in events:
                self.acked_at.setdefault(event.event_id, now)
        if self._note_delays:
            now = time.time()
            self.delays.extend([now - event.created_at.timestamp() for event in events])
        return outcomes

    def note(self, fact: Fact) -> None:
        """Note the term's begin and each page's end."""
        if isinstance(fact, TermBegan):
            self.began, self.cpu_began = time.monotonic(), time.process_time()
            print(READY, flush=True)
        elif isinstance(fact, PageDelivered):
            self.delivered += fact.delivered
            self.ended, self.cpu_ended = time.monotonic(), time.process_time()
            if not self.first_delivered:
                self.first_ended, self.first_delivered = self.ended, self.delivered

    def report(self) -> dict[str, object]:
        """Return what was seen."""
        tail = self.ended - self.first_ended
        return {
            "delivered": self.delivered,
            "seconds": self.ended - self.began,
            "first_seconds": self.first_ended - self.began,
            "rate_after_first": (self.delivered - self.first_delivered) / tail if tail else 0.0,
            "drain_cpu_seconds": self.cpu_ended - self.cpu_began,
            "delay_p50": percentile(self.delays, 50) if self.delays else None,
            "delay_p99": percentile(self.delays, 99) if self.delays else None,
            "delay_max": max(self.delays) if self.delays else None,
            "acked_at": self.acked_at,
        }


async def measure(
    settings: Settings, events: int, samples: bool, delays: bool, scrape: Scrape | None
) -> None:
    """Run the relay until SIGTERM or until ``events`` are delivered, and report."""
    watch = Stopwatch(bus_options(settings), sample=samples, delays=delays)
    service = Service(settings, scrape=scrape)  # of which nothing runs without an address

    def observe(fact: Fact) -> None:
        watch.note(fact)
        service.record(fact)
        if events and watch.delivered >= events:
            relay.stop()

    relay = Relay(settings, bus=watch, observer=observe)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop_on_signal, relay)
        async with service.attend(relay) if settings.http else nullcontext():
            await relay.run()
        tasks.cancel_scope.cancel()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    report = watch.report() | {
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": peak_mib(usage.ru_maxrss),
    }
    print(json.dumps(report), flush=True)


def peak_mib(maxrss_kib: int) -> float:
    """Return this program's own peak: on Linux ru_maxrss begins at that of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())
        return int(peak) / 1024
    return maxrss_kib / 1024


async def stop_on_signal(relay: Relay) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            relay.stop()


def main(  # noqa: PLR0917 - a command line
    dsn: str,
    nats_url: str,
    stream: str,
    events: Annotated[int, typer.Option()] = 0,
    samples: Annotated[bool, typer.Option()] = False,
    delays: Annotated[bool, typer.Option()] = False,
    http: Annotated[int, typer.Option()] = 0,
    retention: Annotated[str, typer.Option()] = "1h",
) -> None:
    flags = {
        "postgres_dsn": dsn,
        "nats_url": nats_url,
        "stream": None if stream == "-" else stream,
        "retention": retention,
        "http": f"127.0.0.1:{http}" if http else "off",
    }
    settings = Settings.load(flags)  # and RELAY_* of the environment, as of the counts' poll
    uvloop = {"use_uvloop": True}
    with exported(serving=bool(http)) as scrape:
        freeze()
        anyio.run(measure, settings, events, samples, delays, scrape, backend_options=uvloop)


if __name__ == "__main__":
    typer.run(main)
