"""Every way in which the end of a stream can stay unseen, on a real server. R-ONCE.

The stream's duplicate window is over each time: only what was read there keeps a second copy out.
"""

from contextlib import asynccontextmanager
from types import SimpleNamespace

import anyio
import pytest

from relay.core.outcome import Held, Stored
from relay.jetstream import reconcile, tail
from relay.jetstream.api import NoAnswerError
from relay.jetstream.fast_ingest import Batch
from tests.jetstream.helpers import all_stored, back_after, delivered, patience

pytestmark = pytest.mark.anyio

WINDOW = 0.1
SETTLED, UNSETTLED = 5, 40


@pytest.fixture
async def seen(nats_server, kit, name, batched):
    """A look at the stream, which forgets message ids soon."""
    async with kit.look(nats_server.url) as found:
        how = {"allow_batched": batched, "duplicate_window": int(WINDOW * 1e9)}
        await found.make_stream(name, [f"{name}.>"], **how)
        found.stream = name
        yield found


@pytest.fixture
async def died(nats_server, kit, name, seen):
    """What a relay left that died: a page that was stored and not settled; and the next relay."""
    page = [kit.event(f"{name}.x", key=f"k{n % 3}") for n in range(UNSETTLED)]
    async with kit.bus(nats_server.url, stream=name) as bus:
        tips = await delivered(bus, [kit.event(f"{name}.x") for _ in range(SETTLED)])
        assert all_stored(await bus.publish(page))
    await anyio.sleep(2 * WINDOW)

    @asynccontextmanager
    async def successor():
        async with kit.bus(nats_server.url, stream=name) as bus:
            bus.reconciling.resume(tips, ())
            yield bus
        assert await seen.count(name) == SETTLED + UNSETTLED

    return SimpleNamespace(page=page, successor=successor)


async def test_a_look_that_failed_is_made_before_anything_is_sent(died, monkeypatch):
    async def fail(*args, **how):
        raise NoAnswerError("no answer within 2 s")

    async with died.successor() as bus:
        with monkeypatch.context() as patch:
            patch.setattr(reconcile, "read_tail", fail)
            await bus.connect()
            outcomes = await bus.publish(died.page)
            assert isinstance(outcomes[0], Held)
            assert Stored not in set(map(type, outcomes))
        assert all_stored(await bus.publish(died.page))


async def test_a_replica_that_lags_behind_is_not_believed_to_have_the_end(died, monkeypatch):
    consuming = tail.consuming

    def lagging(connection, api, stream, config, *args, **how):  # as if it had no message yet
        config = config | {"filter_subject": f"{stream}.none"}
        return consuming(connection, api, stream, config, *args, **how)

    monkeypatch.setattr(tail, "consuming", lagging)
    async with died.successor() as bus:
        assert all_stored(await bus.publish(died.page))


async def test_what_has_no_answer_on_a_lasting_connection_is_looked_for(
    nats_server, kit, seen, batched, monkeypatch
):
    name = seen.stream
    async with kit.bus(nats_server.url, stream=name) as bus:
        await delivered(bus, [kit.event(f"{name}.x")])
        page = [kit.event(f"{name}.x", key=f"k{n % 3}") for n in range(10)]
        with monkeypatch.context() as patch:
            patch.setattr(Batch, "answered", lambda *_: None)
            await seen.change_stream(name, no_ack=not batched)  # which fast ingest answers
            with patience(bus, 0.2):
                assert not all_stored(await bus.publish(page))
            assert await seen.count(name) > 1
        await seen.change_stream(name, no_ack=False)
        await anyio.sleep(2 * WINDOW)
        await back_after(bus, page)
    assert await seen.count(name) == 11
