"""What several tests ask of a bus."""

import time

import anyio

from relay.core.outcome import Stored
from relay.errors import BusOutage


def all_stored(outcomes):
    return all(isinstance(outcome, Stored) for outcome in outcomes)


async def back_after(bus, page):
    """Publish until it is stored, as often as the engine would; return how long it took, in s."""
    began = time.monotonic()
    while not all_stored(await bus.publish(page)):
        assert time.monotonic() - began < 10
        await anyio.sleep(0.01)
    return time.monotonic() - began


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
