"""Reading a stream for people: never the relay's own path, and nothing in the stream changes.

    consumer made ──► batches ──► up to the sequence that was asked for, or without end
        ▲               │ the connection, the consumer or a delivery is lost
        └───────────────┘ from the sequence behind the last one that was handed on

So each message comes once and in order, whatever happens to the connection. Authoritative: the
sequence in each delivery's reply subject. A consumer changes what a work queue or an interest
stream keeps: those are refused.
"""

import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

import anyio

from relay.errors import BusLoginRefused, BusOutage, StreamError
from relay.jetstream.answers import Json, whole
from relay.jetstream.api import Api, DeniedError, NoAnswerError, RejectedError
from relay.jetstream.codes import STREAM_NOT_FOUND
from relay.jetstream.connection import Connection
from relay.jetstream.deliveries import MOST, Consumer, ConsumerLostError, consuming
from relay.jetstream.options import BusOptions
from relay.jetstream.parser import Message
from relay.jetstream.servers import Servers

_BATCH_BYTES: Final = 8 << 20
"""What one batch should be at most, by the stream's average: the server drops a client that is
64 MiB behind."""

_PAUSE: Final = 0.5

UNFIT: Final = ("workqueue", "interest")
"""Retention policies under which a further consumer changes what the stream keeps."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """A stream as it is now."""

    name: str
    created_at: datetime
    subjects: tuple[str, ...]
    retention: str
    messages: int
    bytes: int
    first_seq: int
    first_at: datetime | None  # None if it is empty
    last_seq: int


@dataclass(frozen=True, slots=True)
class Durable:
    """A durable consumer: it was given all up to ``delivered``, and settled all up to ``acked``."""

    name: str
    delivered: int
    acked: int
    filters: tuple[str, ...]


@dataclass(slots=True)
class Start:
    """Where to begin: at ``seq``, or at the first message that is not older than ``at``."""

    seq: int = 1
    at: datetime | None = None

    def policy(self) -> Json:
        """Return the fields of a consumer's configuration."""
        if self.at is not None:
            return {"deliver_policy": "by_start_time", "opt_start_time": self.at.isoformat()}
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": max(self.seq, 1)}


class StreamReader:
    """Reads streams over one connection, and connects again where that is lost."""

    def __init__(self, options: BusOptions, patience: float = 30.0) -> None:
        """``patience`` is how many s an outage is waited out, once something was read."""
        self._servers = Servers(options)
        self._options = options
        self._patience = patience
        self._connection: Connection | None = None
        self._api: Api | None = None
        self.on_outage: Callable[[str], None] = lambda _: None

    @classmethod
    @asynccontextmanager
    async def open(cls, options: BusOptions, patience: float = 30.0) -> AsyncIterator[Self]:
        """Connect for the length of the block.

        Raises:
            BusOutage, BusLoginRefused: no server takes us.
        """
        reader = cls(options, patience)
        await reader._connect()
        try:
            yield reader
        finally:
            await reader._drop()

    async def state(self, stream: str) -> StreamState:
        """Describe ``stream``.

        Raises:
            StreamError: there is no such stream, or we may not ask.
            BusOutage: nobody answers.
        """
        info = await self._ask(f"STREAM.INFO.{stream}", stream)
        config, state = info.get("config") or {}, info.get("state") or {}
        messages = whole(state.get("messages")) or 0
        return StreamState(
            name=stream,
            created_at=_instant(str(info.get("created"))),
            subjects=tuple(config.get("subjects") or ()),
            retention=str(config.get("retention")),
            messages=messages,
            bytes=whole(state.get("bytes")) or 0,
            first_seq=whole(state.get("first_seq")) or 0,
            first_at=_instant(str(state.get("first_ts"))) if messages else None,
            last_seq=whole(state.get("last_seq")) or 0,
        )

    async def durables(self, stream: str) -> list[Durable]:
        """List the durable consumers of ``stream``. Raises as ``state``."""
        found: list[Durable] = []
        offset, total = 0, 1
        while offset < total:
            answer = await self._ask(f"CONSUMER.LIST.{stream}", stream, {"offset": offset})
            page = answer.get("consumers") or []
            for each in page:
                config = each.get("config") or {}
                if not config.get("durable_name"):
                    continue
                acked = (each.get("ack_floor") or {}).get("stream_seq") or 0
                filters = config.get("filter_subjects") or [config.get("filter_subject")]
                found.append(
                    Durable(
                        name=str(config["durable_name"]),
                        delivered=(each.get("delivered") or {}).get("stream_seq") or 0,
                        acked=acked,
                        filters=tuple(each for each in filters if each),
                    )
                )
            offset += len(page) or 1
            total = whole(answer.get("total")) or 0
        return found

    async def count(self, stream: str, start: Start, subjects: Sequence[str] = ()) -> int:
        """Count the messages from ``start`` on. Raises as ``state``."""
        async with self._consuming(stream, start, subjects, headers_only=True) as consumer:
            return consumer.pending

    async def messages(
        self,
        stream: str,
        start: Start,
        *,
        up_to: float = math.inf,
        subjects: Sequence[str] = (),
        headers_only: bool = False,
    ) -> AsyncGenerator[list[Message], None]:
        """Yield messages in batches, in the order of sequence, each once.

        Ends behind the sequence ``up_to``, or where the stream ends before it; without it never.

        Raises:
            StreamError: there is no such stream, we may not read it, or its retention forbids it.
            BusOutage: an outage outlasted the patience.
        """
        begun_at, waits_since = start, math.inf
        while True:
            try:
                async with self._consuming(
                    stream, begun_at, subjects, headers_only=headers_only
                ) as consumer:
                    async for batch in consumer.batches(up_to):
                        yield batch
                        begun_at, waits_since = Start(batch[-1].seq + 1), math.inf
            except (ConsumerLostError, BusOutage) as why:
                now = anyio.current_time()
                waits_since = min(waits_since, now)
                if now - waits_since > self._patience or isinstance(why, BusLoginRefused):
                    raise BusOutage(f"stream {stream}: {why}") from why
                self.on_outage(str(why))
                await anyio.sleep(_PAUSE)
            else:
                return

    @asynccontextmanager
    async def _consuming(
        self,
        stream: str,
        start: Start,
        subjects: Sequence[str],
        *,
        headers_only: bool,
    ) -> AsyncIterator[Consumer]:
        state = await self.state(stream)
        if state.retention in UNFIT:
            raise StreamError(
                f"stream {stream} has the retention {state.retention}: another consumer would "
                "change what it keeps, so it is not read"
            )
        config = {"headers_only": headers_only, **start.policy()}
        if subjects:
            config["filter_subjects"] = list(subjects)
        average = max(1, state.bytes // max(1, state.messages))
        most = max(1, min(MOST, _BATCH_BYTES // average))
        assert self._connection is not None
        assert self._api is not None
        with _in_words(stream):
            async with consuming(
                self._connection, self._api, stream, config, self._options.ack_timeout, most=most
            ) as consumer:
                yield consumer

    async def _ask(self, verb: str, stream: str, body: Json | None = None) -> Json:
        if self._connection is None or self._connection.lost is not None:
            await self._drop()
            await self._connect()
        assert self._api is not None
        with _in_words(stream):
            return await self._api.request(verb, self._options.ack_timeout, body)

    async def _connect(self) -> None:
        connection = await self._servers.connect()
        self._connection, self._api = connection, Api(connection, self._options.api)

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop("done")
            await connection.dropped()


@contextmanager
def _in_words(stream: str) -> Iterator[None]:
    """Raise the API's errors as the errors of ``StreamReader.state``."""
    try:
        yield
    except NoAnswerError as silence:
        raise BusOutage(f"stream {stream}: {silence}") from silence
    except RejectedError as no:
        if no.code == STREAM_NOT_FOUND:
            raise StreamError(f"there is no stream {stream}: name one by --stream") from no
        raise StreamError(f"stream {stream} can't be read: {no}") from no
    except DeniedError as no:
        raise StreamError(f"stream {stream} can't be read by this login: {no}") from no


def _instant(text: str) -> datetime:
    """Read Go's RFC 3339, which has nanoseconds."""
    found = re.fullmatch(r"(.{19})(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", text)
    if found is None:
        raise BusOutage(f"an instant that can't be read: {text[:40]}")
    micros = (found[2] or "")[:6].ljust(6, "0")
    return datetime.fromisoformat(f"{found[1]}.{micros}{found[3]}").astimezone(UTC)
