"""What the demo looks up while it runs: the stream's length, and the relay's own figures.

For the eyes only: nothing of it enters the verdict.
"""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import nats
import psycopg
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig
from nats.js.errors import NotFoundError
from psycopg.rows import class_row

from relay.demo.readback import parse_message
from relay.demo.relayprocess import STREAM, SUBJECTS, RelayProcess
from relay.demo.report import latency_ms

_READY_TIMEOUT = 15.0
_READY_POLL = 0.05
_RECENT = 2000

_STATUS = """
select lag_seconds, wakes_bell, wakes_poll from relay.status
"""
_LEADS = "select epoch > 0 and holder is not null from relay.status"


@dataclass(frozen=True, slots=True)
class Status:
    """The relay's figures from ``relay.status``; lag in seconds."""

    lag_seconds: float
    wakes_bell: int
    wakes_poll: int


class Probe:
    """Looks at both servers through connections of its own."""

    def __init__(self, connection: psycopg.AsyncConnection, client: Client) -> None:
        """Take the connections; ``probe`` makes and closes them."""
        self._connection = connection
        self._client = client
        self._jetstream = client.jetstream()
        self._recent: deque[float] = deque(maxlen=_RECENT)

    async def until_ready(self, relay: RelayProcess) -> None:
        """Wait until the relay leads and its stream is there, so that nobody times its start.

        Raises:
            DevstackError: it ended, or is not ready within 15 s.
        """
        with anyio.move_on_after(_READY_TIMEOUT):
            while not await self._is_ready():
                relay.check()
                await anyio.sleep(_READY_POLL)
            return
        raise relay.failed(f"the relay is not ready after {_READY_TIMEOUT:.0f} s")

    async def stored(self) -> int:
        """Count the stream's messages."""
        return (await self._jetstream.stream_info(STREAM)).state.messages

    async def status(self) -> Status:
        """Read the relay's own figures."""
        async with self._connection.cursor(row_factory=class_row(Status)) as cursor:
            await cursor.execute(_STATUS)
            status = await cursor.fetchone()
        assert status is not None
        return status

    async def follow(self) -> None:
        """Begin to watch the latency of messages as they are stored."""
        await self._jetstream.subscribe(
            SUBJECTS,
            stream=STREAM,
            cb=self._note,
            ordered_consumer=True,
            config=ConsumerConfig(headers_only=True),
        )

    def latency_ms(self, percent: float) -> float:
        """Return a percentile of the recent messages' latency; 0.0 if there is none."""
        return latency_ms(self._recent, percent)

    async def _note(self, message: Msg) -> None:
        took = parse_message(message).latency
        if took is not None:
            self._recent.append(took)

    async def _is_ready(self) -> bool:
        leads = await (await self._connection.execute(_LEADS)).fetchone()
        try:
            await self._jetstream.stream_info(STREAM)
        except NotFoundError:
            return False
        return leads == (True,)


@asynccontextmanager
async def probe(dsn: str, nats_url: str) -> AsyncIterator[Probe]:
    """Connect to both servers for the length of the block."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        client = await nats.connect(nats_url)
        try:
            yield Probe(connection, client)
        finally:
            await client.close()
