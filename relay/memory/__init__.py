"""The outbox and the broker in memory, for an application's own tests and for models.

    outbox, bus = MemoryOutbox(), MemoryBus()
    relay = Relay(Settings(), outbox=outbox, bus=bus, wake_source=outbox.bell)
    ...
    outbox.emit("orders.placed", b"{}", key="7")
    assert bus.messages[0].subject == "orders.placed"

Small models: a list and a dict behind the same ports, held to the same contract by the same tests.
They prove nothing about Postgres or NATS.
"""

from relay.memory.bus import MemoryBus, Message
from relay.memory.outbox import MemoryBell, MemoryOutbox, MemoryStore
from relay.memory.parked import MemoryParked

__all__ = ["MemoryBell", "MemoryBus", "MemoryOutbox", "MemoryParked", "MemoryStore", "Message"]
