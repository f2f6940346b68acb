"""Reading a stream back from a real server."""

import uuid
from datetime import UTC, datetime

import nats
import pytest

from relay.audit.oracle import digest
from relay.audit.stream import read_stream
from relay.errors import StreamError

pytestmark = pytest.mark.anyio


@pytest.fixture
def name():
    """A name for one test: nats-server may bring back the messages of a stream that was deleted
    twice under one name, while it still removes the files of the first (nats-server #8474)."""
    return f"READBACK_{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def jetstream(nats_server, name):
    client = await nats.connect(nats_server.url)
    stream = client.jetstream()
    await stream.add_stream(name=name, subjects=["readback.>"])
    yield stream
    await stream.delete_stream(name)
    await client.close()


async def test_every_message_comes_back_in_order(jetstream, nats_server, name):
    for n in range(2500):
        await jetstream.publish_async(f"readback.{n % 7}", str(n).encode())
    await jetstream.publish_async_completed()
    found = await read_stream(nats_server.url, name)
    assert [message.seq for message in found] == list(range(1, 2501))
    assert [message.digest for message in found] == [digest(str(n).encode()) for n in range(2500)]
    assert found[8].subject == "readback.1"


async def test_headers_become_fields(jetstream, nats_server, name):
    headers = {
        "Nats-Msg-Id": "mine",
        "Relay-Event-Id": "an-event",
        "Relay-Key": "k",
        "Relay-Created-At": "2026-01-02T03:04:05.000006Z",
    }
    await jetstream.publish("readback.x", b"payload", headers=headers)
    (found,) = await read_stream(nats_server.url, name)
    assert (found.message_id, found.event_id, found.key) == ("mine", "an-event", "k")
    assert found.created_at == datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert abs((found.stored_at - datetime.now(UTC)).total_seconds()) < 60
    assert found.latency == (found.stored_at - found.created_at).total_seconds()


async def test_a_message_without_headers_has_a_name_all_the_same(jetstream, nats_server, name):
    await jetstream.publish("readback.x", b"")
    (found,) = await read_stream(nats_server.url, name)
    assert (found.event_id, found.key, found.message_id, found.latency) == (
        "message 1",
        None,
        None,
        None,
    )


async def test_deleted_messages_are_left_out_and_an_empty_stream_is_empty(
    jetstream, nats_server, name
):
    assert await read_stream(nats_server.url, name) == []
    for n in range(3):
        await jetstream.publish("readback.x", str(n).encode())
    await jetstream.delete_msg(name, 2)
    assert [message.seq for message in await read_stream(nats_server.url, name)] == [1, 3]
    await jetstream.delete_msg(name, 3)
    assert [message.seq for message in await read_stream(nats_server.url, name)] == [1]
    await jetstream.purge_stream(name)
    assert await read_stream(nats_server.url, name) == []


async def test_reading_leaves_no_consumer_that_lasts(jetstream, nats_server, name):
    await jetstream.publish("readback.x", b"")
    await read_stream(nats_server.url, name)
    assert await jetstream.consumers_info(name) == []


async def test_a_missing_stream_is_an_error(nats_server):
    with pytest.raises(StreamError):
        await read_stream(nats_server.url, "NOWHERE")
