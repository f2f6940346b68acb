"""What several tests ask of a bus."""

import shutil
import time
from contextlib import contextmanager
from dataclasses import replace

import anyio
import pytest

from relay.core.outcome import Stored
from relay.errors import BusOutage
from relay.jetstream import streams, windowed


def all_stored(outcomes):
    return all(isinstance(outcome, Stored) for outcome in outcomes)


@contextmanager
def patience(bus, seconds):
    """Let calls wait ``seconds`` for an answer, where one is to stay away."""
    usual = bus._options
    bus._options = replace(usual, ack_timeout=seconds)
    yield
    bus._options = usual


@contextmanager
def waiting_for_nothing(bus):
    """Let every wait for an answer last longer than the test: none may be waited out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windowed, "_LAST_WORD", 60.0)
        patch.setattr(streams, "_PATIENCE_AFTER_SILENCE", 60.0)
        with patience(bus, 60.0), anyio.fail_after(30):
            yield


def spied(bus, monkeypatch):
    """Note what is written to the server, chunk by chunk."""
    wire, chunks = bus._open.connection.wire, []
    write = wire.write

    def spy(data):
        chunks.append(data)
        write(data)

    monkeypatch.setattr(wire, "write", spy)
    return chunks


async def back_after(bus, page):
    """Publish until it is stored, as often as the engine would; return the calls, 100 a second."""
    calls, began = 1, time.monotonic()
    while not all_stored(await bus.publish(page)):
        assert time.monotonic() - began < 30
        await anyio.sleep(0.01)
        calls += 1
    return calls


async def back_after_outage(bus, page):
    """Publish until it is stored, over as many connections as it takes."""
    began = time.monotonic()
    while True:
        try:
            if all_stored(await bus.publish(page)):
                return
        except BusOutage:
            pass
        assert time.monotonic() - began < 20
        await anyio.sleep(0.02)


def taken(bus, *, caught_up=True):
    """Take the tips as the engine does behind a page."""
    return list(bus.reconciling.tips(caught_up=caught_up))


async def delivered(bus, page):
    """Publish a page; the tips behind it."""
    assert all_stored(await bus.publish(page))
    return taken(bus)


@contextmanager
def older_stream(server, folder, name):
    """Keep a copy of one stream as it is now; kill the server and put it back at the end."""
    (store,) = server.store.glob(f"jetstream/*/streams/{name}")
    server.stop()
    shutil.copytree(store, folder / name)
    server.start()
    yield
    server.kill()
    shutil.rmtree(store)
    shutil.copytree(folder / name, store)
    server.start()
