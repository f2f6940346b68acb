"""What several tests ask of a bus."""

import time

import anyio

from relay.core.outcome import Stored


def all_stored(outcomes):
    return all(isinstance(outcome, Stored) for outcome in outcomes)


async def back_after(bus, page):
    """Publish until it is stored, as often as the engine would; return how long it took, in s."""
    began = time.monotonic()
    while not all_stored(await bus.publish(page)):
        assert time.monotonic() - began < 10
        await anyio.sleep(0.01)
    return time.monotonic() - began
