"""One contestant, one measure: drain, latency, commits. The relay and its peers alike.

Each measure has a fresh database and a fresh stream. What was stored, and when, is the stream's own
word; when an event was committed is its producer's.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import psycopg

from bench import pgbench, streams
from bench.openloop import commit
from bench.peers.base import Peer, payload
from bench.processes import Child, running
from bench.stack import Stack

PATIENCE = 20.0
"""Seconds without any new message after which a contestant has given up."""


@dataclass(frozen=True)
class Delays:
    """What one open-loop run showed, in s.

    Attributes:
        stored: commit to the stream's time stamp, one an event. Below 0 where the event was stored
            before its producer's commit had returned.
        acked: commit to the PubAck, for a relay that was asked; else empty.
        rate: commits/s that the producers kept.
    """

    stored: Sequence[float]
    acked: Sequence[float]
    rate: float


@contextmanager
def delivering(servers: Stack, peer: Peer, dsn: str, stream: str, *flags: str) -> Iterator[Child]:
    """Run the contestant's worker; the block has to wait until it is ready."""
    command = [*peer.command(dsn, servers.nats.url, stream), *flags]
    with running(command, peer.environment()) as child:
        yield child


def fill(dsn: str, peer: Peer, events: int) -> None:
    """Write waiting events in one transaction."""
    rows = f"(select 'k' || n % 1000, {payload('n::text')} from generate_series(1, {events}) as n)"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(peer.events_from(rows).encode())
        connection.execute("vacuum (analyze)")
        connection.execute("checkpoint")


def drain(servers: Stack, peer: Peer, events: int) -> float:
    """Drain ``events`` that wait; events/s from the worker's READY to the last stored message."""
    with servers.database() as dsn, servers.stream() as stream:
        peer.prepare(dsn)
        fill(dsn, peer, events)
        with delivering(servers, peer, dsn, stream) as worker:
            began = worker.ready()
            url = servers.nats.url
            state = asyncio.run(streams.wait_for(url, stream, events, PATIENCE))
    return events / max(state.last_at - began, 1e-3)


Meter = Callable[[Child, str], AbstractContextManager[object]]
"""Measures a worker, which delivers from a database, for the length of the block."""


def latency(
    servers: Stack,
    peer: Peer,
    rate: int,
    seconds: float,
    *,
    samples: bool = False,
    meter: Meter = lambda *_: nullcontext(),
) -> Delays:
    """Commit on schedule; how long each event took. ``samples`` asks a relay for its PubAcks."""
    with servers.database() as dsn, servers.stream() as stream:
        peer.prepare(dsn)
        flags = ("--samples",) if samples else ()
        with delivering(servers, peer, dsn, stream, *flags) as worker:
            worker.ready()
            with meter(worker, dsn):
                commits = commit(dsn, peer, rate, seconds)
            url = servers.nats.url
            asyncio.run(streams.wait_for(url, stream, len(commits.at), PATIENCE))
            messages = asyncio.run(streams.read_back(url, stream))
            said = worker.stop()
    first: dict[int, streams.Message] = {}
    for message in messages:
        first.setdefault(message.number, message)
    counted = commits.counted
    acked_at = json.loads(said)["acked_at"] if samples else {}
    return Delays(
        [first[number].stored_at - at for number, at in counted.items()],
        [acked_at[first[n].event_id] - at for n, at in counted.items()] if samples else [],
        commits.rate,
    )


def commits(servers: Stack, peer: Peer, clients: int, seconds: int, how: str) -> float:
    """Commits/s: ``bare`` without what its tables cost, ``alone``, or ``delivering``."""
    with servers.database() as dsn, servers.stream() as stream:
        peer.prepare(dsn)
        if how == "bare":
            peer.unburden(dsn)
        if how != "delivering":
            return pgbench.commits_per_second(servers, dsn, peer, clients, seconds)
        with delivering(servers, peer, dsn, stream) as worker:
            worker.ready()
            time.sleep(0.2)  # else its first look at an empty table is within the measure
            return pgbench.commits_per_second(servers, dsn, peer, clients, seconds)
