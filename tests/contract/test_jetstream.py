"""The JetStream adapter keeps the bus's contract, on a real server."""

from collections.abc import AsyncIterator
from contextlib import suppress

import anyio
import nats
import pytest
from nats.js.errors import NotFoundError

from relay import devstack
from relay.errors import BusOutage
from relay.jetstream import BusOptions, JetStreamBus
from tests.contract.bus_contract import BusContract

pytestmark = pytest.mark.anyio

STREAM = "CONTRACT"


class JetStreamHarness:
    def __init__(self, server: devstack.NatsServer) -> None:
        self.bus = JetStreamBus(
            BusOptions(
                urls=(server.url,),
                stream=STREAM,
                stream_subjects=("orders.>",),
                stream_create=True,
                ack_timeout=2.0,
            )
        )
        self._server = server

    async def stored(self) -> list[tuple[str, str, bytes]]:
        client = await nats.connect(self._server.url)
        try:
            jetstream = client.jetstream()
            count = (await jetstream.stream_info(STREAM)).state.last_seq
            found = [await jetstream.get_msg(STREAM, seq) for seq in range(1, count + 1)]
        except NotFoundError:
            found = []
        finally:
            await client.close()
        return [(m.subject, m.headers["Nats-Msg-Id"], m.data or b"") for m in found]

    async def go_away(self) -> None:
        self._server.stop()

    async def come_back(self) -> None:
        self._server.start()


class TestJetStreamBus(BusContract):
    @pytest.fixture
    async def harness(self, own_nats: devstack.NatsServer) -> AsyncIterator[JetStreamHarness]:
        harness = JetStreamHarness(own_nats)
        with anyio.fail_after(30):
            while True:  # as the engine does: making the stream can take a busy machine too long
                with suppress(BusOutage):
                    await harness.bus.connect()
                    break
        yield harness
        await harness.bus.close()
