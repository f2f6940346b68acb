"""What a person or a program sees of a demo: figures while it runs, and the result.

The figures while it runs are the relay's own word and the stream's length; the result is made of
what was committed and read back, and of nothing else.
"""

import json
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

import anyio
import nats
import psycopg
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig
from nats.js.errors import NotFoundError
from psycopg.rows import DictRow, dict_row
from rich.console import Console
from rich.live import Live
from rich.table import Table

from relay.audit.oracle import Findings, StreamMessage
from relay.demo.producer import Workload

_INTERVAL = 0.5
_RECENT = 2000
_STATUS = "select holder, lag_seconds, wakes_bell, wakes_poll from relay.status"


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one demo: events committed, messages stored, and the comparison of both.

    Attributes:
        p50_ms, p99_ms: so long after its insert half, or 99 %, of the messages were stored.
        events_per_second: from the first event's creation to the last message's storing.
    """

    committed: int
    stored: int
    findings: Findings
    p50_ms: float
    p99_ms: float
    events_per_second: float

    @property
    def is_good(self) -> bool:
        """Whether something was committed and nothing is wrong with it."""
        return self.committed > 0 and self.findings.is_clean

    def as_json(self) -> str:
        """Write it on one line; every value is a number."""
        counts = {"committed": self.committed, "stored": self.stored, **self.findings.counts}
        latency = {"p50": round(self.p50_ms, 3), "p99": round(self.p99_ms, 3)}
        rate = round(self.events_per_second, 1)
        return json.dumps({**counts, "latency_ms": latency, "events_per_second": rate})

    def as_table(self) -> Table:
        """Lay it out for a terminal."""
        table = _table("Committed against stored")
        table.add_row("committed by the producers", f"{self.committed:,}")
        table.add_row("stored in the stream", f"{self.stored:,}")
        for name, count in self.findings.counts.items():
            table.add_row(name, f"{count:,}", style="bold red" if count else "green")
        table.add_row("latency p50", f"{self.p50_ms:.1f} ms")
        table.add_row("latency p99", f"{self.p99_ms:.1f} ms")
        table.add_row("events per second", f"{self.events_per_second:,.0f}")
        return table


def summarize(committed: int, stream: Sequence[StreamMessage], findings: Findings) -> Result:
    """Make the result out of the stream, read back whole and in order."""
    latencies = [m.latency for m in stream if m.latency is not None]
    created = [m.created_at for m in stream if m.created_at is not None]
    stored = [m.stored_at for m in stream if m.stored_at is not None]
    took = (max(stored) - min(created)).total_seconds() if created and stored else 0.0
    return Result(
        committed=committed,
        stored=len(stream),
        findings=findings,
        p50_ms=latency_ms(latencies, 50),
        p99_ms=latency_ms(latencies, 99),
        events_per_second=len(stream) / took if took > 0 else 0.0,
    )


def latency_ms(latencies: Collection[float], percent: float) -> float:
    """Return a percentile (nearest rank) of latencies in s, in ms; 0.0 if there are none."""
    if not latencies:
        return 0.0
    rank = max(1, math.ceil(len(latencies) * percent / 100))
    return sorted(latencies)[rank - 1] * 1000


@dataclass(slots=True)
class Probe:
    """Looks at both servers through connections of its own; ``probe`` makes and closes them.

    ``latencies`` are those of the newest 2,000 messages in s, once ``follow`` was called.
    """

    connection: psycopg.AsyncConnection
    jetstream: JetStreamContext
    stream: str
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    async def is_ready(self) -> bool:
        """Say whether the relay leads and its stream is there."""
        if (await self.status())["holder"] is None:
            return False
        try:
            await self.stored()
        except NotFoundError:
            return False
        return True

    async def stored(self) -> int:
        """Count the stream's messages."""
        return (await self.jetstream.stream_info(self.stream)).state.messages

    async def status(self) -> DictRow:
        """Read the relay's own figures: ``holder``, ``lag_seconds`` and the wakes' counts."""
        async with self.connection.cursor(row_factory=dict_row) as cursor:
            status = await (await cursor.execute(_STATUS)).fetchone()
        assert status is not None
        return status

    async def follow(self) -> None:
        """Begin to watch the latency of messages as they are stored."""
        await self.jetstream.subscribe(
            ">",
            stream=self.stream,
            cb=self._note,
            ordered_consumer=True,
            config=ConsumerConfig(headers_only=True),
        )

    async def _note(self, message: Msg) -> None:
        created_at = (message.headers or {}).get("Relay-Created-At")
        if created_at is not None:
            stored_at = message.metadata.timestamp
            latency = stored_at - datetime.fromisoformat(created_at)
            self.latencies.append(latency.total_seconds())


@asynccontextmanager
async def probe(dsn: str, nats_url: str, stream: str) -> AsyncIterator[Probe]:
    """Connect to both servers for the length of the block."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        client = await nats.connect(nats_url)
        try:
            yield Probe(connection, client.jetstream(), stream)
        finally:
            await client.close()


async def show(look: Probe, workload: Workload, phase: Callable[[], str], console: Console) -> None:
    """Draw a table twice a second until cancelled."""
    await look.follow()
    stored_before, looked_at = 0, anyio.current_time()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            stored, status, now = await look.stored(), await look.status(), anyio.current_time()
            rate = (stored - stored_before) / max(now - looked_at, 1e-3)
            stored_before, looked_at = stored, now
            table = _table(phase(), min_width=46)
            table.add_row("running", f"{workload.seconds:.0f} s")
            table.add_row("events committed", f"{len(workload.events):,}")
            table.add_row("stored in the stream", f"{stored:,}")
            table.add_row("lag", f"{status['lag_seconds']:.2f} s")
            table.add_row("rate", f"{rate:,.0f} events/s")
            table.add_row("latency p50", f"{latency_ms(look.latencies, 50):.1f} ms")
            table.add_row("latency p99", f"{latency_ms(look.latencies, 99):.1f} ms")
            table.add_row("wake-ups by bell", f"{status['wakes_bell']:,}")
            table.add_row("wake-ups by poll", f"{status['wakes_poll']:,}")
            live.update(table, refresh=True)
            await anyio.sleep(_INTERVAL)


def _table(title: str, min_width: int | None = None) -> Table:
    table = Table(title=title, show_header=False, min_width=min_width)
    table.add_column()
    table.add_column(justify="right")
    return table
