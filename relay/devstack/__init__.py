"""Throw-away servers for the demo, the tests and the benchmarks: a real Postgres, a real NATS.

Synchronous, loopback only, and gone afterwards: each server lives in one temporary folder of its
own and ends with its ``with`` block, with its parent, or by its reaper, whichever comes first.
Nothing outside that folder is ever written, owned or made readable, and no user is created.

Never for data that matters: by default Postgres does not sync, and NATS asks for no password. The
relay itself never imports this package.
"""

from relay.devstack.programs import Installation, find_nats_server, find_postgres
from relay.devstack.sandbox import DevstackError
from relay.devstack.servers import NatsServer, Postgres, nats_server, postgres

__all__ = [
    "DevstackError",
    "Installation",
    "NatsServer",
    "Postgres",
    "find_nats_server",
    "find_postgres",
    "nats_server",
    "postgres",
]
