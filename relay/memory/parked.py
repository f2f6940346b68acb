"""The parked as a dict by event_id, on anyio's clock."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel

from relay.core.disposition import Parking
from relay.core.event import Event
from relay.core.order import KeyFence
from relay.ports import Due, Settlement


@dataclass(slots=True)
class Row:
    """One parked event.

    Attributes:
        event: as it was read; its message id changes with a person's retry.
        attempts: how often it was refused.
        due_at: on anyio's clock; None if it waits behind another, or is dead.
        waits_since: on anyio's clock, when it was tried last.
        refused_at: on anyio's clock, when it was refused first.
        errors: every refusal's reason.
    """

    event: Event
    attempts: int = 0
    due_at: float | None = None
    waits_since: float = 0.0
    refused_at: float | None = None
    dead: bool = False
    held_by: str = ""
    errors: list[str] = field(default_factory=list)
    retries: int = 0


class MemoryParked:
    """``relay.ports.ParkedEvents`` over a dict. ``retry`` and ``drop`` are a person's."""

    def __init__(self, *, dead_blocks: bool) -> None:
        """Begin empty."""
        self.rows: dict[str, Row] = {}
        self._dead_blocks = dead_blocks

    @property
    def blocking(self) -> bool:
        """Whether any event makes the later ones of its key queue."""
        return any(self._dead_blocks or not row.dead for row in self.rows.values())

    def retry(self, event_id: str) -> None:
        """Have a dead event tried again, under a message id of its own."""
        row = self.rows[event_id]
        row.dead, row.attempts, row.retries, row.refused_at = False, 0, row.retries + 1, None
        row.due_at = row.waits_since = anyio.current_time()
        row.event = row.event._replace(message_id=f"relay-{event_id}-{row.retries}")

    def drop(self, event_id: str) -> None:
        """Forget a parked event."""
        del self.rows[event_id]
        self.promote()

    async def blocked(self, keys: Collection[str]) -> set[str]:
        """Return those of ``keys`` whose next event has to queue behind a parked one."""
        await anyio.lowlevel.checkpoint()
        fence = KeyFence()
        for row in self.rows.values():
            if self._dead_blocks or not row.dead:
                fence.close(row.event.key)
        return {key for key in keys if not fence.passes(key)}

    async def due(self, limit: int, *, without: Collection[str] = ()) -> Sequence[Due]:
        """Return at most ``limit`` events that may be tried now, in the order of id."""
        await anyio.lowlevel.checkpoint()
        runs = [list(self._run(chain, without)) for chain in self._chains()]
        # The first of each key before any that is behind one: no key keeps the others waiting.
        places = sorted(
            (place, self.rows[due.event.event_id].waits_since, due.event.id)
            for run in runs
            for place, due in enumerate(run)
        )
        chosen = {id_ for _, _, id_ in places[:limit]}
        found = [due for run in runs for due in run if due.event.id in chosen]
        return sorted(found, key=lambda due: due.event.id)

    def settle(self, done: Settlement, page: Mapping[str, Event]) -> None:
        """Park, park again, and unpark; the events of new ones are in ``page``."""
        for parking in done.parked:
            row = self.rows.get(parking.event_id) or Row(page[parking.event_id])
            self._park(row, parking)
            self.rows[parking.event_id] = row
        for event_id in done.unparked:
            self.rows.pop(event_id, None)
        self.promote()

    def promote(self) -> None:
        """Let the first event of each key be due, if it only waited for another to go."""
        for chain in self._chains():
            first = chain[0]
            if not first.dead and first.due_at is None:
                first.due_at = anyio.current_time()

    def _park(self, row: Row, parking: Parking) -> None:
        row.attempts, row.dead, row.held_by = parking.attempts, parking.dead, parking.held_by
        now = anyio.current_time()
        row.waits_since = now
        row.due_at = None if parking.delay is None else now + parking.delay
        if parking.attempts and not parking.held_by:
            row.errors.append(parking.error)
            if row.refused_at is None:
                row.refused_at = now

    def _chains(self) -> list[list[Row]]:
        """Sort the rows that count by key; one without a key stands alone."""
        chains: dict[object, list[Row]] = {}
        for row in sorted(self.rows.values(), key=lambda row: row.event.id):
            if self._dead_blocks or not row.dead:
                event = row.event
                chains.setdefault(event.id if event.key is None else event.key, []).append(row)
        return list(chains.values())

    def _run(self, chain: list[Row], without: Collection[str]) -> Iterator[Due]:
        """Yield a chain's events up to the first that may not be tried."""
        now = anyio.current_time()
        for place, row in enumerate(chain):
            waits = row.due_at is None and place == 0
            if row.dead or waits or (row.due_at or 0.0) > now or row.held_by in {*without} - {""}:
                return
            age = 0.0 if row.refused_at is None else now - row.refused_at
            yield Due(row.event, row.attempts, row.held_by, age)
