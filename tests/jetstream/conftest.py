import base64
import itertools
import json
import shutil
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace

import nats
import pytest

from relay.core.event import Event
from relay.jetstream import BusOptions, JetStreamBus
from tests.jetstream.credentials import Certificates

CREATED_AT = datetime(2026, 3, 14, 15, 9, 26, 535897, tzinfo=UTC)


@pytest.fixture
def make_event():
    """Make events with ascending ids; whatever is not said is plain."""
    ids = itertools.count(1)

    def make(subject, *, key=None, payload=b"{}", headers=None, message_id=None):
        event_id = str(uuid.uuid4())
        return Event(
            next(ids),
            event_id,
            message_id or f"relay-{event_id}",
            subject,
            key,
            CREATED_AT,
            headers,
            payload,
        )

    return make


class Look:
    """A plain nats-py client that looks at the server from outside."""

    def __init__(self, client):
        self.client = client

    async def ask(self, verb, body=None):
        data = json.dumps(body).encode() if body is not None else b""
        answer = json.loads((await self.client.request(f"$JS.API.{verb}", data, timeout=5)).data)
        assert "error" not in answer, answer
        return answer

    async def make_stream(self, name, subjects, **config):
        base = {"name": name, "subjects": subjects, "storage": "file", "allow_batched": True}
        return await self.ask(f"STREAM.CREATE.{name}", {**base, **config})

    async def change_stream(self, name, **config):
        now = (await self.ask(f"STREAM.INFO.{name}"))["config"]
        return await self.ask(f"STREAM.UPDATE.{name}", {**now, **config})

    async def count(self, name):
        return (await self.ask(f"STREAM.INFO.{name}"))["state"]["messages"]

    async def messages(self, name):
        """All of a stream: (subject, message id, payload, header block as text)."""
        state = (await self.ask(f"STREAM.INFO.{name}"))["state"]
        found = []
        for seq in range(state["first_seq"], state["last_seq"] + 1):
            message = (await self.ask(f"STREAM.MSG.GET.{name}", {"seq": seq}))["message"]
            headers = base64.b64decode(message.get("hdrs", "")).decode()
            ids = [line[13:] for line in headers.split("\r\n") if line.startswith("Nats-Msg-Id: ")]
            data = base64.b64decode(message.get("data", ""))
            found.append((message["subject"], *ids, data, headers))
        return found


@pytest.fixture
def look():
    """Open an outside view: ``async with look(url) as seen``."""

    @asynccontextmanager
    async def open_look(url, **how):
        client = await nats.connect(url, allow_reconnect=False, **how)
        try:
            yield Look(client)
        finally:
            await client.close()

    return open_look


class Granted:
    """A permit that is always granted."""

    def granted(self):
        return True

    async def renew(self):
        raise AssertionError("nothing was to be renewed")


class Bus(JetStreamBus):
    """A bus whose ``publish`` needs no permit named, for tests that are about something else."""

    async def publish(self, events, permit=None, *, closed=()):
        return await super().publish(events, permit or Granted(), closed=closed)


@pytest.fixture
def open_bus():
    """Make a bus that is closed at the end: ``async with open_bus(url, ack_timeout=1) as bus``."""

    @asynccontextmanager
    async def make(*urls, **how):
        bus = Bus(BusOptions(urls=urls, **how))
        try:
            yield bus
        finally:
            await bus.close()

    return make


@pytest.fixture
def kit(look, open_bus, make_event):
    return SimpleNamespace(look=look, bus=open_bus, event=make_event)


@pytest.fixture
def name():
    """A stream name that no other test has; its subjects are ``<name>.>``."""
    return f"S{uuid.uuid4().hex[:10]}"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program makes the certificates, and is not here")
    folder = tmp_path_factory.mktemp("certificates")
    folder.chmod(0o755)
    return Certificates(folder)


@pytest.fixture(params=[True, False], ids=["fast ingest", "windowed"])
def batched(request):
    return request.param


@pytest.fixture
def two_streams(nats_server, look, open_bus, name, batched):
    """Make the streams ``<name>A`` and ``<name>B``, a look at them and a bus."""

    @asynccontextmanager
    async def make(**options):
        async with (
            look(nats_server.url) as seen,
            open_bus(nats_server.url, **options) as bus,
        ):
            for each in "AB":
                await seen.make_stream(name + each, [f"{name}.{each}.>"], allow_batched=batched)
            yield seen, bus

    return make


@pytest.fixture
def events(make_event, name):
    """Make events for one of the two streams, without a key unless one is given."""

    def make(stream, count=1, **how):
        return [make_event(f"{name}.{stream}.x", **how) for _ in range(count)]

    return make
