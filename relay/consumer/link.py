"""One connection to NATS, of a consumer's own.

nats-py's reconnecting is off: what a lost connection had under way is not known, so ``Link.lost``
is set, and whoever reads makes another one. Two privates of nats-py are used (seen with 2.16).
``_process_msg``: its own takes headers it can't decode for the end of the connection, and costs a
queue and a task switch a message. And the transport, to drop it at once.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from nats import errors
from nats.aio.client import Client

from relay.errors import BusLoginRefused, BusOutage

CONNECT_DEADLINE: Final = 5.0
API_DEADLINE: Final = 5.0
_LATER_CODES: Final = frozenset({500, 503})

_Route = Callable[[bytes, bytes, bytes, bytes | None], None]


class ApiError(Exception):
    """JetStream's API refuses a request."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        """Keep both codes."""
        self.code = int(answer.get("code") or 0)
        self.err_code = int(answer.get("err_code") or 0)
        super().__init__(f"{answer.get('description')} ({self.err_code})")


class Link(Client):
    """One connection. ``lost`` is set when it ends."""

    def __init__(self) -> None:
        """Make one; ``open_link`` opens it."""
        super().__init__()
        self.lost = asyncio.Event()
        self.why = ""
        self.routes: dict[int, _Route] = {}

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        route = self.routes.get(sid)
        if route is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            route(bytes(subject), bytes(reply), bytes(data), bytes(headers) if headers else None)

    def end(self) -> None:
        """Drop the connection at once. nats-py's ``close`` waits, and a cancelled one leaks it."""
        self._status = Client.CLOSED
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None:
                task.cancel()
        for subscription in self._subs.values():
            subscription._stop_processing()  # noqa: SLF001 - its task waits for ever
        for name in ("_io_writer", "_bare_io_writer"):
            writer = getattr(self._transport, name, None)
            if writer is not None:
                writer.transport.abort()
        self.lost.set()

    async def api(self, prefix: str, subject: str, request: object = None) -> dict[str, Any]:
        """Ask JetStream's API.

        Raises:
            BusOutage: no answer. ApiError: a refusal.
        """
        payload = b"" if request is None else json.dumps(request).encode()
        try:
            answer = await self.request(f"{prefix}.{subject}", payload, timeout=API_DEADLINE)
        except errors.NoRespondersError:
            raise BusOutage("JetStream is off, or not for this account") from None
        except (errors.Error, OSError, TimeoutError) as error:
            raise BusOutage(f"no answer from JetStream: {error or type(error).__name__}") from None
        content: dict[str, Any] = json.loads(answer.data)
        if refusal := content.get("error"):
            if refusal.get("code") in _LATER_CODES:
                raise BusOutage(str(refusal.get("description")))
            raise ApiError(refusal)
        return content


@asynccontextmanager
async def open_link(servers: Sequence[str], options: Mapping[str, Any]) -> AsyncIterator[Link]:
    """Hold a connection for the block.

    Raises:
        BusLoginRefused, BusOutage: there is none.
    """
    link = Link()

    async def report(error: Exception) -> None:
        link.why = str(error) or type(error).__name__

    async def closed() -> None:
        link.lost.set()

    ours: dict[str, Any] = {"ping_interval": 2, "max_outstanding_pings": 2, "connect_timeout": 2}
    ours |= {"name": "relay consumer", **options}
    ours |= {"servers": list(servers), "allow_reconnect": False, "max_reconnect_attempts": 1}
    ours |= {"error_cb": report, "closed_cb": closed}
    try:
        try:
            async with asyncio.timeout(CONNECT_DEADLINE):
                await link.connect(**ours)
        except (errors.Error, OSError, TimeoutError, ValueError) as error:
            why = link.why or str(error) or type(error).__name__
            kind = BusLoginRefused if "authorization" in why.lower() else BusOutage
            raise kind(f"NATS at {', '.join(servers)}: {why}") from None
        yield link
    finally:
        link.end()
