"""What people use today, beside the relay: the same events, judged by the stream alone.

Each measure is a turn in which everybody does the same on the same servers, with a fresh database
and a fresh stream: drain what waits, deliver on schedule, let 32 clients write. How many events a
contestant drains is its own: as many as take it some seconds, by a short run before. Some need
``wal_level = logical``, so this scenario has servers of its own, and the relay runs on them too.

Who can't be had here, or fails, is a row of the report with the reason.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import median

from bench import contest, peers
from bench.figures import Curve, Figure, Findings, Table, at_least, percentile, ratios
from bench.ours import Ours
from bench.peers.base import Peer, UnavailableError
from bench.scenario import Bench
from bench.stack import LOGICAL, Stack, stack

RATES = (200, 500)
LATENCY_SECONDS = 10
CLIENTS = 32
COMMIT_SECONDS = 5
DRAIN_SECONDS = 6
FIRST_EVENTS = 2_000
MOST_EVENTS = 1_000_000
TIMES_THE_DRAIN = 10
TIMES_THE_COMMITS = 3
NOTIFIES = 0.5
"""A peer whose tables leave fewer than this share of the bare table's commits notifies on each."""


@dataclass
class Entrant:
    """A contestant and what was measured of it; ``fault`` says why it is out."""

    peer: Peer
    version: str = ""
    fault: str = ""
    events: int = 0
    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


Measure = Callable[[Stack, Bench, Entrant], None]


def run(bench: Bench) -> Findings:
    """Take turns, measure by measure."""
    entrants = [Entrant(peer) for peer in (Ours(), *peers.PEERS)]
    measures: list[tuple[str, Measure]] = [("drain", drain), ("latency", latency)]
    measures.append(("commits", commits))
    bench.plan(len(entrants) * (1 + bench.runs * len(measures)))
    with stack(LOGICAL) as servers:
        for entrant in entrants:
            bench.step(f"install: {entrant.peer.name}")
            attempt(entrant, partial(enter, servers, bench))
        for name, measure in measures:
            for _, order in bench.turns(entrants):
                for entrant in order:
                    bench.step(f"{name}: {entrant.peer.name}")
                    if not entrant.fault:
                        attempt(entrant, partial(measure, servers, bench))
    return told(entrants, bench.runs)


def attempt(entrant: Entrant, do: Callable[[Entrant], None]) -> None:
    """Do it; who can't be had, or fails, is out, with the reason."""
    try:
        do(entrant)
    except UnavailableError as reason:
        entrant.fault = f"not available: {reason}"
    except Exception as error:  # noqa: BLE001 - a peer's failure is a finding, whatever it is
        entrant.fault = f"failed: {type(error).__name__}: {error}"


def enter(servers: Stack, bench: Bench, entrant: Entrant) -> None:
    """Install it, and find out how many events keep it busy for some seconds."""
    entrant.version = entrant.peer.install()
    events = bench.events(FIRST_EVENTS, least=200)
    goal = DRAIN_SECONDS * min(1.0, bench.scale * 4)
    while True:
        rate = contest.drain(servers, entrant.peer, events)
        entrant.events = round(min(MOST_EVENTS, max(events, rate * goal)))
        if entrant.events < 10 * events or entrant.events == MOST_EVENTS:
            return
        events = entrant.events // 2


def drain(servers: Stack, bench: Bench, entrant: Entrant) -> None:
    """Drain what waits."""
    del bench
    rate = contest.drain(servers, entrant.peer, entrant.events)
    entrant.values["drain"].append(rate)


def latency(servers: Stack, bench: Bench, entrant: Entrant) -> None:
    """Deliver on schedule."""
    for rate in RATES:
        seconds = bench.seconds(LATENCY_SECONDS)
        delays = contest.latency(servers, entrant.peer, rate, seconds)
        for percent in (50, 99):
            value = 1000 * percentile(delays.stored, percent)
            entrant.values[f"p{percent} at {rate}/s"].append(value)


def commits(servers: Stack, bench: Bench, entrant: Entrant) -> None:
    """Let clients write: to its bare table, and while its worker delivers."""
    for how in ("bare", "alone", "delivering"):
        seconds = bench.seconds(COMMIT_SECONDS)
        rate = contest.commits(servers, entrant.peer, CLIENTS, seconds, how)
        entrant.values[how].append(rate)


UNITS = {
    "drain": ("drain", "events/s"),
    **{
        f"p{p} at {r}/s": (f"commit to stored, p{p} at {r}/s", "ms")
        for r in RATES
        for p in (50, 99)
    },
    "bare": (f"{CLIENTS} clients, its bare table", "commits/s"),
    "alone": (f"{CLIENTS} clients, its tables as they are", "commits/s"),
    "delivering": (f"{CLIENTS} clients, its worker on", "commits/s"),
}


def told(entrants: list[Entrant], runs: int) -> Findings:
    """Make figures, the table of promises, and the verdicts."""
    found = Findings()
    for key, (what, unit) in UNITS.items():
        for entrant in entrants:
            if entrant.values[key]:
                name = f"peers: {what}: {entrant.peer.name}"
                found.figures.append(Figure(name, unit, tuple(entrant.values[key])))
    ours, *others = entrants
    whole = [e for e in others if not e.fault and len(e.values["delivering"]) == runs]
    if whole and not ours.fault:
        found.figures += verdicts(ours, whole)
    rows = tuple(
        (
            entrant.peer.name,
            entrant.version,
            entrant.peer.source,
            entrant.peer.guarantees,
            entrant.peer.lacks,
            entrant.fault or f"measured, {entrant.events:,} events drained",
        )
        for entrant in entrants
    )
    head = ("contestant", "version", "source", "guarantees", "lacks", "here")
    found.tables.append(Table("What each promises", head, rows))
    found.curves = [
        Curve("drain", entrant.peer.name, ((0, median(values)),))
        for entrant in others
        if (values := entrant.values["drain"])
    ]
    return found


def verdicts(ours: Entrant, others: list[Entrant]) -> list[Figure]:
    """Judge ours by the best of the others, run by run."""
    mine = ours.values
    fastest = [max(each) for each in zip(*(e.values["drain"] for e in others), strict=True)]
    name = "peers: ours to the fastest: drain"
    figures = [at_least(name, "ratio", ratios(mine["drain"], fastest), TIMES_THE_DRAIN)]
    for key in (key for key in UNITS if key.startswith("p")):
        quickest = [min(each) for each in zip(*(e.values[key] for e in others), strict=True)]
        name = f"peers: the quickest to ours: {UNITS[key][0]}"
        figures.append(at_least(name, "ratio", ratios(quickest, mine[key]), 1))
    notifying = [e for e in others if min(ratios(e.values["alone"], e.values["bare"])) < NOTIFIES]
    if notifying:
        best = [
            max(each) for each in zip(*(e.values["delivering"] for e in notifying), strict=True)
        ]
        name = "peers: ours to the best that notifies always: commits, delivering"
        values = ratios(mine["delivering"], best)
        figures.append(at_least(name, "ratio", values, TIMES_THE_COMMITS))
    return figures
