"""The nats-server of a soak, and what an administrator does to it and to its stream.

Two users: the relays log in as ``relay``, whose permissions come and go; who names no user is the
administrator. The server takes a changed configuration by SIGHUP.
"""

import asyncio
import itertools
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import nats
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from relay import devstack
from relay.audit.oracle import StreamMessage
from relay.audit.stream import batches
from tests.system.harness import STREAM

_Answer = TypeVar("_Answer")

_CONFIG = """
authorization {
  users = [
    { user: admin, password: admin }
    { user: relay, password: relay, permissions: %s }
  ]
}
no_auth_user: admin
"""
_FORBIDDEN = '{ publish: { deny: ["orders.>"] } }'
CONFIG = _CONFIG % "{ }"

SHAPE: dict[str, Any] = {
    "name": STREAM,
    "subjects": ["orders.>"],
    "storage": "file",
    "discard": "new",
    "max_msgs": -1,
    "max_msg_size": -1,
    "duplicate_window": 120_000_000_000,
    "allow_batched": True,
}
AWAY = (NatsError, OSError, TimeoutError)
"""What a server that is down or starting raises."""

_THEIRS = "orders.theirs"
_LIES = (
    b'{"seq": 1}',
    b'{"seq": 1, "count": 1}',
    b'{"stream": "ELSEWHERE", "seq": 7, "count": 1, "batch": "x"}',
    b'{"stream": "EVENTS"}',
    b'{"stream": "EVENTS", "seq": 0}',
    b'{"stream": "EVENTS", "seq": "1"}',
    b"[]",
    b"no JSON",
    b"",
)
_TIMEOUT = 3.0


class Broker:
    """An administrator's hands. Every call makes its own connection, past the proxy."""

    def __init__(self, server: devstack.NatsServer) -> None:
        self._server = server
        self._ask("CREATE", SHAPE)

    def change(self, **config: Any) -> None:
        """Change the stream's configuration; what is not named is as it was made. Raises AWAY."""
        self._ask("UPDATE", SHAPE | config)

    def held(self) -> tuple[int, int]:
        """How many messages the stream holds, and its last sequence. Raises AWAY."""

        async def ask(jetstream: JetStreamContext) -> tuple[int, int]:
            state = (await jetstream.stream_info(STREAM)).state
            return state.messages, state.last_seq

        return asyncio.run(self._with(ask))

    def permit(self, *, publish: bool) -> None:
        """Take the right to publish from the relays, or give it back."""
        config = self._server.log_path.with_name("server.conf")
        config.write_text(_CONFIG % ("{ }" if publish else _FORBIDDEN), encoding="utf-8")
        with suppress(devstack.DevstackError):  # it is down, and reads the file when it starts
            os.kill(self._server.pid, signal.SIGHUP)

    def publish_theirs(self, message_id: str) -> None:
        """Publish another application's message into the stream, under its id. Raises AWAY."""

        async def publish(jetstream: JetStreamContext) -> None:
            await jetstream.publish(_THEIRS, b"theirs", headers={"Nats-Msg-Id": message_id})

        asyncio.run(self._with(publish))

    def lie(self, seconds: float) -> bool:
        """Answer every message as if it had been stored, for so long; False if it is away."""

        async def answer(message: Msg) -> None:
            if message.reply:
                await message.respond(next(lies))

        async def serve() -> None:
            client = await nats.connect(self._server.url, allow_reconnect=False)
            try:
                await client.subscribe("orders.>", cb=answer)
                await asyncio.sleep(seconds)
            finally:
                await client.close()

        lies = itertools.cycle(_LIES)
        try:
            asyncio.run(serve())
        except AWAY:
            return False
        return True

    def messages(self, first_seq: int) -> Iterator[StreamMessage]:
        """Read the stream from ``first_seq`` to its present end, by and by."""
        with asyncio.Runner() as runner:
            stream = batches(self._server.url, STREAM, first_seq)
            while (batch := runner.run(_next(stream))) is not None:
                yield from (each for each in batch if each.subject != _THEIRS)

    def _ask(self, verb: str, config: dict[str, Any]) -> None:
        # Not by nats-py's own configuration object, which knows no fast ingest.
        async def ask(jetstream: JetStreamContext) -> None:
            answer = await jetstream._nc.request(
                f"$JS.API.STREAM.{verb}.{STREAM}", json.dumps(config).encode(), timeout=_TIMEOUT
            )
            if error := json.loads(answer.data).get("error"):
                raise NatsError(str(error))

        asyncio.run(self._with(ask))

    async def _with(
        self, ask: Callable[[JetStreamContext], Coroutine[Any, Any, _Answer]]
    ) -> _Answer:
        async with asyncio.timeout(2 * _TIMEOUT):
            client = await nats.connect(
                self._server.url, connect_timeout=_TIMEOUT, allow_reconnect=False
            )
            try:
                return await ask(client.jetstream(timeout=_TIMEOUT))
            finally:
                await client.close()


async def _next(stream: AsyncIterator[list[StreamMessage]]) -> list[StreamMessage] | None:
    return await anext(stream, None)
