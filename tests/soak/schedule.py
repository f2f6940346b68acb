"""Which fault happens when: derived from the seed and a round's number, and from nothing else.

A soak is a sequence of rounds. In each, faults come at random (Poisson) for a while, overlapping as
they like; then everything is healed and the outbox has to drain. So every outage stays shorter
than the duplicate window, and liveness is proven once a round and not only at the end.

The schedule says when a fault is due. What two faults both need (one server, the relays) they get
one after the other, so the second may begin late.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from relay.failpoints import PLACES

MEAN_GAP: Final = 3.0
"""Seconds between two faults, on average."""

ROUND: Final = 40.0
"""Seconds of a round in which faults begin."""

Param = float | int | str
Params = Mapping[str, Param]


@dataclass(frozen=True, slots=True)
class Fault:
    """One planned fault.

    Attributes:
        at: seconds after its round's beginning.
        kind: a key of ``KINDS``.
        params: what it is to do, such as how long.
    """

    at: float
    kind: str
    params: Params


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault.

    Attributes:
        weight: how often, compared with the others.
        draw: makes the parameters out of chance.
    """

    weight: int
    draw: Callable[[random.Random], Params]


def plan(seed: int, number: int, seconds: float = ROUND) -> list[Fault]:
    """Return the faults of round ``number`` (from 0), which begin within ``seconds``."""
    return list(_faults(random.Random(f"soak {seed} {number}"), seconds))


def _faults(chance: random.Random, seconds: float) -> Iterator[Fault]:
    names, weights = list(KINDS), [kind.weight for kind in KINDS.values()]
    at = chance.expovariate(1 / MEAN_GAP)
    while at < seconds:
        (name,) = chance.choices(names, weights)
        yield Fault(round(at, 3), name, KINDS[name].draw(chance))
        at += chance.expovariate(1 / MEAN_GAP)


def _nothing(_: random.Random) -> Params:
    return {}


def _lasting(least: float, most: float) -> Callable[[random.Random], Params]:
    return lambda chance: {"seconds": round(chance.uniform(least, most), 3)}


def _network(least: float, most: float, *ways: str) -> Callable[[random.Random], Params]:
    """Make a fault between the relays and one side, in one direction or both."""
    return lambda chance: {
        "side": chance.choice(["postgres", "nats"]),
        "way": chance.choice(ways or ("both", "to server", "to client")),
        **_lasting(least, most)(chance),
    }


def _failpoint(chance: random.Random) -> Params:
    return {
        "place": chance.choice(PLACES),
        "action": chance.choice(["kill", "kill", "stop", "exit"]),
        "visit": chance.choice([1, 1, 2, 5, 20]),
    }


KINDS: Final[Mapping[str, Kind]] = {
    # relays
    "kill -9 of the leader": Kind(6, _nothing),
    "kill -9 of a standby": Kind(2, _nothing),
    "SIGSTOP of the leader": Kind(4, _lasting(0.1, 4.0)),
    "SIGSTOP of the leader past a takeover": Kind(4, _lasting(0.0, 4.0)),
    "host vanished": Kind(4, _lasting(0.0, 4.0)),
    "failpoint": Kind(8, _failpoint),
    "SIGTERM of the leader": Kind(3, _nothing),
    "SIGTERM of all relays, one by one": Kind(1, _nothing),
    # Postgres
    "Postgres restarted": Kind(
        4,
        lambda c: {"mode": c.choice(["fast", "immediate", "kill"]), **_lasting(0.0, 4.0)(c)},
    ),
    "Postgres sessions terminated": Kind(
        4, lambda c: {"duty": c.choice(["term", "reader", "listener", "pool", "all"])}
    ),
    "Postgres statements cancelled": Kind(2, _nothing),
    "long transaction": Kind(
        4, lambda c: {"events": c.choice([1, 3, 50]), "commit": 1, **_lasting(2.0, 20.0)(c)}
    ),
    "table locked": Kind(
        2, lambda c: {"table": c.choice(["outbox", "cursor", "parked"]), **_lasting(0.5, 6.0)(c)}
    ),
    "row security on the outbox": Kind(2, _lasting(0.5, 4.0)),
    "NOTIFY queue above half": Kind(2, _lasting(1.0, 6.0)),
    # NATS
    "nats-server restarted": Kind(
        5, lambda c: {"mode": c.choice(["stop", "kill"]), **_lasting(0.0, 5.0)(c)}
    ),
    "publishing forbidden": Kind(2, _lasting(0.5, 6.0)),
    "stream full": Kind(4, _lasting(0.5, 8.0)),
    "stream takes small messages only": Kind(3, _lasting(0.2, 1.5)),
    "stream without fast ingest": Kind(1, _lasting(1.0, 6.0)),
    "lying answers": Kind(3, _lasting(1.0, 8.0)),
    # the network
    "frozen": Kind(6, _network(1.0, 12.0)),
    "bytes dropped": Kind(6, _network(0.5, 6.0)),
    "connections refused": Kind(2, _network(0.0, 5.0)),
    "connections reset": Kind(3, _network(0.0, 0.0)),
    "connections half closed": Kind(3, _network(0.0, 0.0, "to server", "to client")),
    "connections cut": Kind(
        5, lambda c: {"bytes": int(10 ** c.uniform(0, 5)), **_network(1.0, 4.0)(c)}
    ),
    "slow": Kind(3, lambda c: {"delay": round(c.uniform(0.01, 0.2), 3), **_network(1, 8)(c)}),
    # producers
    "burst": Kind(2, lambda c: {"events": c.choice([500, 2000])}),
    "rows of another cluster": Kind(2, lambda c: {"events": c.choice([1, 3, 50])}),
    "another application's message id": Kind(2, _nothing),
    "unstorable events": Kind(3, lambda c: {"why": c.choice(["no stream", "too large"])}),
}
