"""The oracle at work: each round's part of the stream once it is drained, all of it at the end.

A round is judged by itself so that a fault is found while its logs are fresh; a second copy of an
earlier round's event shows there as a phantom. The last word has the verdict over everything, for
which the stream is read by and by and only ids, keys, numbers and digests are kept.
"""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from relay.audit.oracle import Committed, Findings, StreamMessage, compare
from tests.soak.world import World
from tests.system.harness import connected

_MOST_SHOWN = 5


class Judge:
    """Judges what came since it was asked last."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._judged = 0
        self._next_seq = 1

    def round(self) -> Findings:
        """Compare what was committed since the last round with what was stored since."""
        world = self._world
        committed = list(islice(world.ledger.committed.values(), self._judged, None))
        stream = list(world.broker.messages(self._next_seq))
        found = compare(self._storable(committed), stream)
        self._judged += len(committed)
        self._next_seq = stream[-1].seq + 1 if stream else self._next_seq
        return found

    def everything(self) -> Findings:
        """Compare all that was committed with the whole stream."""
        world = self._world
        return compare(self._storable(world.ledger.committed.values()), world.broker.messages(1))

    def _storable(self, committed: Iterable[Committed]) -> Iterable[Committed]:
        ledger = self._world.ledger
        never = ledger.unstorable | ledger.unclaimed
        return (event for event in committed if event.event_id not in never)


def wrong_dead(world: World) -> list[str]:
    """Compare the dead letters with what could never be stored; one line for each difference."""
    ledger = world.ledger
    parked, dead = world.parked(), world.dead()
    never = ledger.unstorable | ledger.unclaimed
    killed = {event_id: dead[event_id] for event_id in dead.keys() - never}
    alive = ledger.unstorable - dead.keys()
    gone = ledger.unclaimed - parked.keys()
    lines = []
    if gone:
        few = ", ".join(islice(gone, _MOST_SHOWN))
        lines.append(f"{len(gone)} events that no stream captures are not kept: {few}")
    if killed:
        few = "; ".join(f"{each}: {error}" for each, error in islice(killed.items(), _MOST_SHOWN))
        lines.append(f"{len(killed)} events are dead, but could be stored: {few}")
    if alive:
        few = ", ".join(islice(alive, _MOST_SHOWN))
        lines.append(f"{len(alive)} events could never be stored, but are not dead: {few}")
    return lines


def write_evidence(world: World, found: Findings, file: Path) -> None:
    """Write down what the producers, the stream and the outbox say of the first wrong events."""
    wrong = [*found.lost, *found.duplicates, *found.phantoms, *found.reordered, *found.corrupt]
    shown = dict.fromkeys(wrong[: 4 * _MOST_SHOWN])
    keys = {e.key for i in shown if (e := world.ledger.committed.get(i)) and e.key}
    evidence: dict[str, Any] = {
        "verdict": str(found),
        "events": {},
        "keys": {key: [] for key in keys},
    }
    for event_id in shown:
        evidence["events"][event_id] = {
            "committed": world.ledger.committed.get(event_id),
            "outbox": _rows(world, "outbox", event_id),
            "parked": _rows(world, "parked", event_id),
            "stream": [],
        }
    for message in world.broker.messages(1):
        if message.event_id in shown:
            evidence["events"][message.event_id]["stream"].append(_told(message))
        if message.key in keys:
            event = world.ledger.committed.get(message.event_id)
            evidence["keys"][message.key].append([message.seq, event and event.sequence])
    file.write_text(json.dumps(evidence, indent=1, default=str), encoding="utf-8")


def _told(message: StreamMessage) -> dict[str, Any]:
    return {
        "seq": message.seq,
        "created_at": message.created_at,
        "stored_at": message.stored_at,
        "message_id": message.message_id,
    }


def _rows(world: World, table: str, event_id: str) -> list[Any]:
    query = (
        f"select to_jsonb(t) - 'payload_bytes' - 'payload' from relay.{table} as t"
        " where event_id = %s::uuid"
    )
    with connected(world.dsn) as look:
        return [row for (row,) in look.execute(query, (event_id,)).fetchall()]
