"""NATS JetStream as the relay's broker: the ``EventBus`` of ``relay.ports`` over nats-py."""

from relay.jetstream.bus import JetStreamBus
from relay.jetstream.describe import describe
from relay.jetstream.options import BusOptions

__all__ = ["BusOptions", "JetStreamBus", "describe"]
