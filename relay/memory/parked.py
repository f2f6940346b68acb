"""The parked as a dict by id, on anyio's clock."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import anyio
import anyio.lowlevel

from relay.core.event import Event
from relay.core.parking import Parking
from relay.ports import Due, Settlement


@dataclass(slots=True)
class Row:
    """One parked event.

    Attributes:
        event: as it was read; its message id changes with a person's retry.
        attempts: how often it was refused.
        due_at: on anyio's clock; None if it waits behind another, or is dead.
        errors: every refusal's reason.
    """

    event: Event
    attempts: int = 0
    due_at: float | None = None
    dead: bool = False
    held_by: str = ""
    errors: list[str] = field(default_factory=list)
    retries: int = 0


class MemoryParked:
    """``relay.ports.ParkedEvents`` over a dict. ``retry`` and ``drop`` are a person's."""

    def __init__(self, *, dead_blocks: bool) -> None:
        """Begin empty."""
        self.rows: dict[int, Row] = {}
        self._dead_blocks = dead_blocks

    @property
    def blocking(self) -> bool:
        """Whether any event makes the later ones of its key queue."""
        return any(self._dead_blocks or not row.dead for row in self.rows.values())

    def retry(self, id_: int) -> None:
        """Have a dead event tried again, under a message id of its own."""
        row = self.rows[id_]
        row.dead, row.attempts, row.retries = False, 0, row.retries + 1
        row.due_at = anyio.current_time()
        original = row.event.message_id.removesuffix(f"-retry-{row.retries - 1}")
        row.event = row.event._replace(message_id=f"{original}-retry-{row.retries}")

    def drop(self, id_: int) -> None:
        """Forget a parked event."""
        del self.rows[id_]
        self.promote()

    async def blocked(self, keys: Collection[str]) -> set[str]:
        """Return those of ``keys`` whose next event has to queue behind a parked one."""
        await anyio.lowlevel.checkpoint()
        rows = self.rows.values()
        held = {row.event.key for row in rows if self._dead_blocks or not row.dead}
        return {key for key in keys if key in held}

    async def due(self, limit: int, *, without: Collection[str] = ()) -> Sequence[Due]:
        """Return at most ``limit`` events that may be tried now, in the order of id."""
        await anyio.lowlevel.checkpoint()
        runs = [list(self._run(chain, without)) for chain in self._chains()]
        # The first of each key before any that is behind one: no key keeps the others waiting.
        places = sorted((place, due.event.id) for run in runs for place, due in enumerate(run))
        chosen = {id_ for _, id_ in places[:limit]}
        found = [due for run in runs for due in run if due.event.id in chosen]
        return sorted(found, key=lambda due: due.event.id)

    def settle(self, done: Settlement, page: Mapping[int, Event]) -> None:
        """Park, park again, and unpark; the events of new ones are in ``page``."""
        for parking in done.parked:
            row = self.rows.get(parking.id) or Row(page[parking.id])
            self._park(row, parking)
            self.rows[parking.id] = row
        for id_ in done.unparked:
            self.rows.pop(id_, None)
        self.promote()

    def promote(self) -> None:
        """Let the first event of each key be due, if it only waited for another to go."""
        for chain in self._chains():
            first = chain[0]
            if not first.dead and first.due_at is None:
                first.due_at = anyio.current_time()

    def held_since(self) -> list[datetime]:
        """Tell when the events were written that an outage holds up."""
        return [row.event.created_at for row in self.rows.values() if row.held_by and not row.dead]

    def _park(self, row: Row, parking: Parking) -> None:
        row.attempts, row.dead, row.held_by = parking.attempts, parking.dead, parking.held_by
        row.due_at = None if parking.delay is None else anyio.current_time() + parking.delay
        if parking.attempts and not parking.held_by:
            row.errors.append(parking.error)

    def _chains(self) -> list[list[Row]]:
        """Sort the rows that count by key; one without a key stands alone."""
        chains: dict[object, list[Row]] = {}
        for id_, row in sorted(self.rows.items()):
            if self._dead_blocks or not row.dead:
                chains.setdefault(id_ if row.event.key is None else row.event.key, []).append(row)
        return list(chains.values())

    def _run(self, chain: list[Row], without: Collection[str]) -> Iterator[Due]:
        """Yield a chain's events up to the first that may not be tried."""
        now = anyio.current_time()
        for place, row in enumerate(chain):
            waits = row.due_at is None and place == 0
            if row.dead or waits or (row.due_at or 0.0) > now or row.held_by in {*without} - {""}:
                return
            yield Due(row.event, row.attempts, row.held_by)
