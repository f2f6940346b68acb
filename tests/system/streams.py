"""An administrator's hands on streams, and other clients of the same server."""

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats
from nats.aio.msg import Msg

from relay import devstack
from relay.audit.oracle import StreamMessage
from relay.audit.stream import read_stream


def ask(url: str, question: str, body: Any = None) -> dict[str, Any]:
    """Ask the JetStream API; what it answers, an error included."""

    async def go() -> dict[str, Any]:
        async with await nats.connect(url) as client:
            payload = b"" if body is None else json.dumps(body).encode()
            answer = await client.request(f"$JS.API.{question}", payload, timeout=5)
            found: dict[str, Any] = json.loads(answer.data)
            return found

    return asyncio.run(go())


def make(url: str, name: str, *subjects: str, **config: Any) -> None:
    """Make a stream in file storage."""
    shape = {"name": name, "subjects": subjects, "storage": "file", "allow_batched": True}
    answer = ask(url, f"STREAM.CREATE.{name}", shape | config)
    assert "error" not in answer, answer


def change(url: str, name: str, **config: Any) -> None:
    """Change a stream's configuration; what is not named stays."""
    before = ask(url, f"STREAM.INFO.{name}")["config"]
    answer = ask(url, f"STREAM.UPDATE.{name}", before | config)
    assert "error" not in answer, answer


def delete(url: str, name: str) -> None:
    assert "error" not in ask(url, f"STREAM.DELETE.{name}")


def held(url: str, name: str) -> int:
    """How many messages a stream holds; 0 if it is not there."""
    answer = ask(url, f"STREAM.INFO.{name}")
    return 0 if "error" in answer else answer["state"]["messages"]


def read(url: str, name: str) -> Sequence[StreamMessage]:
    return asyncio.run(read_stream(url, name))


@contextmanager
def older_store(server: devstack.NatsServer, folder: Path) -> Iterator[None]:
    """Keep a copy of the store as it is now; kill the server and put it back at the end.

    That is what a power cut leaves.
    """
    server.stop()
    shutil.rmtree(folder / "older", ignore_errors=True)
    shutil.copytree(server.store, folder / "older")
    server.start()
    yield
    server.kill()
    shutil.rmtree(server.store)
    shutil.copytree(folder / "older", server.store)
    server.start()


def publish(url: str, subject: str, *, message_id: str) -> None:
    """Publish as another application."""

    async def go() -> None:
        async with await nats.connect(url) as client:
            headers = {"Nats-Msg-Id": message_id}
            await client.jetstream().publish(subject, b"theirs", headers=headers)

    asyncio.run(go())


@contextmanager
def answering(url: str, subjects: str, *answers: bytes) -> Iterator[list[str]]:
    """Be a service in core NATS that gives each message all of these answers; what it was sent."""
    asked: list[str] = []
    serving, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with await nats.connect(url) as client:

            async def answer(message: Msg) -> None:
                asked.append(message.subject)
                if message.reply:
                    for each in answers:
                        await client.publish(message.reply, each)

            await client.subscribe(subjects, cb=answer)
            await client.flush()
            serving.set()
            while not over.is_set():
                await asyncio.sleep(0.02)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert serving.wait(10)
    try:
        yield asked
    finally:
        over.set()
        thread.join(10)


def tell(url: str, subject: str) -> None:
    """Publish in core NATS."""

    async def go() -> None:
        async with await nats.connect(url) as client:
            await client.publish(subject, b"")
            await client.flush()

    asyncio.run(go())
