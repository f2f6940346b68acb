"""NATS JetStream as the relay's broker: the ``EventBus`` of ``relay.ports`` over nats-py."""

from relay.jetstream.bus import JetStreamBus
from relay.jetstream.options import BusOptions
from relay.jetstream.setup import describe

__all__ = ["BusOptions", "JetStreamBus", "describe"]
