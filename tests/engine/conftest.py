"""Virtual time, and a world in it."""

from typing import Any

import pytest
import trio.testing

from relay.memory import MemoryBus, MemoryOutbox
from tests.engine.world import World


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture
def world() -> World:
    return World(MemoryOutbox(), MemoryBus())
