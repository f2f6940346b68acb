"""The throw-away nats-server."""

import nats
import pytest
from nats.js.errors import NotFoundError

from relay import devstack

pytestmark = pytest.mark.anyio


@pytest.fixture
def own_server():
    """A server that may be stopped: the shared one is in use elsewhere."""
    with devstack.nats_server("max_payload: 4096") as server:
        yield server


async def test_jetstream_is_on_and_more_configuration_is_taken(own_server):
    client = await nats.connect(own_server.url)
    assert client.max_payload == 4096
    assert (await client.jetstream().account_info()).streams == 0
    await client.close()


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_streams_and_port_survive_every_kind_of_end(own_server, end):
    client = await nats.connect(own_server.url)
    await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
    await client.jetstream().publish("kept", b"x")
    await client.close()
    port = own_server.port
    getattr(own_server, end)()
    own_server.start()
    assert own_server.port == port
    client = await nats.connect(own_server.url)
    assert (await client.jetstream().stream_info("KEPT")).state.messages == 1
    await client.close()


async def test_every_server_has_its_own_store(own_server, nats_server):
    client = await nats.connect(own_server.url)
    await client.jetstream().add_stream(name="OWN", subjects=["own"])
    await client.close()
    client = await nats.connect(nats_server.url)
    with pytest.raises(NotFoundError):
        await client.jetstream().stream_info("OWN")
    await client.close()


def test_wrong_configuration_is_an_error_that_shows_what_the_server_said():
    with (
        pytest.raises(devstack.DevstackError, match="no_such_word"),
        devstack.nats_server("no_such_word: 1"),
    ):
        pass


def test_a_stopped_server_has_no_pid_and_a_running_one_can_not_be_started(own_server):
    with pytest.raises(devstack.DevstackError, match="running already"):
        own_server.start()
    own_server.stop()
    own_server.kill()
    with pytest.raises(devstack.DevstackError, match="not running"):
        _ = own_server.pid
