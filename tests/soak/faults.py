"""All kinds of faults, and how one of them happens."""

from tests.soak import network, relays, servers
from tests.soak.registry import FAULTS
from tests.soak.schedule import Fault
from tests.soak.world import World

__all__ = ["FAULTS", "inflict", "network", "relays", "servers"]


def inflict(world: World, fault: Fault) -> bool:
    """Let one fault happen, from its beginning to its end; whether it could."""
    holds, do = FAULTS[fault.kind]
    with world.recoveries.fault():
        if not holds:
            return do(world, fault.params)
        with world.locks[holds.format(**fault.params)]:
            return do(world, fault.params)
