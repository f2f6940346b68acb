"""Somebody else's long transaction: does it slow the relay down?

Producers write as fast as they go while another session holds a snapshot, taken before the first
event, with a transaction id of its own: vacuum removes nothing, and every event is newer than the
oldest running transaction. The same load without it takes turns. The relay's outbox is read like a
log; a queue that deletes what it took, see ``skiplocked``, passes over its dead rows at every look.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg

from bench import pgbench
from bench.contest import delivering
from bench.figures import Curve, Figure, Findings, at_least, ratios
from bench.ours import Ours
from bench.peers.base import Peer
from bench.scenario import Bench
from bench.skiplocked import SkipLockedQueue
from bench.watching import Seen, watch

CLIENTS = 8
SECONDS = 60
LEAST = 0.95
SEQUENCES: tuple[tuple[Peer, str], ...] = (
    (Ours(), "relay.outbox_id_seq"),
    (SkipLockedQueue(), "queue_id_seq"),
)


def run(bench: Bench) -> Findings:
    """Measure both, with and without, in turn."""
    cases = [(peer, sequence, held) for peer, sequence in SEQUENCES for held in (False, True)]
    seen: dict[tuple[str, bool], list[Seen]] = defaultdict(list)
    bench.plan(bench.runs * len(cases))
    for _, order in bench.turns(cases):
        for peer, sequence, held in order:
            bench.step(f"{peer.name}, {'with' if held else 'without'} a long transaction")
            seen[peer.name, held].append(measure(bench, peer, sequence, held=held))
    found = Findings()
    for peer, _ in SEQUENCES:
        rates = {held: tuple(s.rate for s in seen[peer.name, held]) for held in (False, True)}
        name = f"long transaction: {peer.name}"
        both = ratios(rates[True], rates[False])
        judged = at_least if isinstance(peer, Ours) else only
        found.figures += [
            Figure(f"{name}, without", "events/s", rates[False]),
            Figure(f"{name}, with", "events/s", rates[True]),
            judged(f"{name}, with / without", "ratio", both, LEAST),
        ]
        for held in (False, True):
            label = f"{peer.name}, {'with' if held else 'without'}"
            points = tuple(seen[peer.name, held][-1].rates)
            found.curves.append(Curve("long-transaction", label, points))
    return found


def only(name: str, unit: str, values: tuple[float, ...], _bound: float) -> Figure:
    """Make a figure without a target."""
    return Figure(name, unit, values)


def measure(bench: Bench, peer: Peer, sequence: str, *, held: bool) -> Seen:
    """Run producers and worker once."""
    seconds, servers = bench.seconds(SECONDS, least=3), bench.servers
    with ExitStack() as stack:
        dsn = stack.enter_context(servers.database())
        stream = stack.enter_context(servers.stream())
        peer.prepare(dsn)
        if held:
            stack.enter_context(long_transaction(dsn))
        worker = stack.enter_context(delivering(servers, peer, dsn, stream))
        worker.ready()
        producers = stack.enter_context(pgbench.producing(servers, dsn, peer, CLIENTS, seconds))
        seen = watch(dsn, sequence, servers.nats.url, stream, producers)
        pgbench.rate_of(producers, seconds)
        return seen


@contextmanager
def long_transaction(dsn: str) -> Iterator[None]:
    """Hold a snapshot and a transaction id."""
    with psycopg.connect(dsn) as connection:
        connection.execute("set transaction isolation level repeatable read")
        connection.execute("select pg_current_xact_id()")
        yield
        connection.rollback()
