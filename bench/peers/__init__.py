"""Other ways from Postgres to JetStream, each as ``bench.peers.base.Peer`` says it."""

from bench.peers.base import Peer
from bench.peers.faststream_outbox import FaststreamOutbox
from bench.peers.floor import FLOOR
from bench.peers.loop import GATHERED, ONE_BY_ONE
from bench.peers.nats_outbox import NatsOutbox
from bench.peers.pg_transactional_outbox import POLLING, REPLICATION
from bench.peers.pgqueuer import PgQueuer
from bench.peers.procrastinate import Procrastinate

__all__ = ["FLOOR", "PEERS", "by_name"]

PEERS: tuple[Peer, ...] = (
    GATHERED,
    ONE_BY_ONE,
    PgQueuer(),
    FaststreamOutbox(),
    NatsOutbox(),
    REPLICATION,
    POLLING,
    Procrastinate(),
)
"""All of them; this relay itself is ``bench.ours``."""


def by_name(name: str) -> Peer:
    """Return one of them.

    Raises:
        KeyError: nobody has that name.
    """
    return {peer.name: peer for peer in PEERS}[name]
