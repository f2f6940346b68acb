"""Nothing is sent without the permit: it is looked at before each chunk (R-TERM)."""

import anyio
import pytest

from relay.core.outcome import Stored
from relay.errors import StoreOutage, TermLost
from relay.jetstream import BusOptions, JetStreamBus
from relay.jetstream.frames import CHUNK_EVENTS
from tests.jetstream.helpers import patience, spied

pytestmark = pytest.mark.anyio


class Late:
    """A lease whose first two answers come too late; nothing may be written before the third."""

    def __init__(self, written):
        self.written = written
        self.renewed = 0

    def granted(self):
        return self.renewed > 2

    async def renew(self):
        await anyio.lowlevel.checkpoint()
        assert not self.written
        self.renewed += 1


class Permit:
    """Granted for so many looks; then renewed so many times, for one chunk each."""

    def __init__(self, looks, renewals, error=TermLost, pause=0.0):
        self.looks = looks
        self.renewals = renewals
        self.error = error
        self.pause = pause
        self.renewed = 0
        self.overlap = 0

    def granted(self):
        self.looks -= 1
        return self.looks >= 0

    async def renew(self):
        self.overlap += 1
        assert self.overlap == 1
        await anyio.sleep(self.pause)
        self.overlap -= 1
        self.renewed += 1
        if self.renewed > self.renewals:
            raise self.error("no lease")
        self.looks = 1


@pytest.fixture
def open_stream(nats_server, look, name, batched):
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def make(**options):
        async with look(nats_server.url) as seen:
            for each in "AB":
                await seen.make_stream(name + each, [f"{name}.{each}.>"], allow_batched=batched)
            bus = JetStreamBus(BusOptions(urls=(nats_server.url,), **options))
            try:
                await bus.connect()
                yield seen, bus
            finally:
                await bus.close()

    return make


@pytest.mark.parametrize("error", [TermLost, StoreOutage])
@pytest.mark.parametrize("chunks", [0, 1, 3])
async def test_nothing_is_written_once_the_permit_can_not_be_renewed(
    open_stream, make_event, name, chunks, error, *, monkeypatch
):
    # R-TERM
    async with open_stream() as (seen, bus):
        chunks_written = spied(bus, monkeypatch)
        page = [make_event(f"{name}.A.x", key=f"k{i}") for i in range(5 * CHUNK_EVENTS)]
        with pytest.raises(error, match="no lease"):
            await bus.publish(page, Permit(chunks, 0, error))
        assert len(chunks_written) == chunks
        outcomes = await bus.publish(page, Permit(1000, 0))
        assert all(isinstance(outcome, Stored) for outcome in outcomes)
        assert await seen.count(name + "A") == len(page)


async def test_each_chunk_asks_anew_and_a_slow_renewal_is_no_silence_of_the_stream(
    open_stream, make_event, name, monkeypatch
):
    # R-TERM
    async with open_stream() as (seen, bus):
        chunks_written = spied(bus, monkeypatch)
        page = [make_event(f"{name}.A.x", key=f"k{i}") for i in range(2 * CHUNK_EVENTS)]
        permit = Permit(0, 100, pause=1.1)
        with patience(bus, 1):
            outcomes = await bus.publish(page, permit)
        assert all(isinstance(outcome, Stored) for outcome in outcomes)
        assert permit.renewed == len(chunks_written) >= 2
        assert await seen.count(name + "A") == len(page)


async def test_streams_that_are_sent_to_at_once_renew_one_after_the_other(
    open_stream, make_event, name
):
    # R-TERM
    async with open_stream() as (seen, bus):
        page = [make_event(f"{name}.{'AB'[i % 2]}.x", key=f"k{i}") for i in range(100)]
        with pytest.raises(TermLost):
            await bus.publish(page, Permit(0, 0, pause=0.01))
        assert await seen.count(name + "A") + await seen.count(name + "B") == 0
        outcomes = await bus.publish(page, Permit(0, 100, pause=0.01))
        assert all(isinstance(outcome, Stored) for outcome in outcomes)


async def test_a_retry_and_the_end_of_a_batch_need_the_permit_too(
    open_stream, make_event, name, batched
):
    # R-TERM
    async with open_stream() as (seen, bus):
        await bus.publish([make_event(f"{name}.A.x")], Permit(100, 0))
        await seen.change_stream(name + "A", max_msg_size=500)
        page = [
            make_event(f"{name}.A.x", payload=b"x" * (600 if i == 1 else 10), key="k")
            for i in range(10)
        ]
        permit = Permit(0, 50)
        outcomes = await bus.publish(page, permit)
        assert isinstance(outcomes[0], Stored)
        assert outcomes[1].code == 10054
        assert permit.renewed >= (1 if batched else 2)
        assert await seen.count(name + "A") == 2


async def test_an_answer_that_came_too_late_is_no_permit(
    open_stream, make_event, name, monkeypatch
):
    # R-TERM
    async with open_stream() as (_, bus):
        permit = Late(spied(bus, monkeypatch))
        (outcome,) = await bus.publish([make_event(f"{name}.A.x")], permit)
        assert isinstance(outcome, Stored)
        assert permit.renewed == 3
