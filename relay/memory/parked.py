"""The parked events as a dict by event_id.

When a parked event is due again is by anyio's clock, so that tests in virtual time need not wait.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import anyio
from anyio.lowlevel import checkpoint

from relay.core.event import Event
from relay.core.order import KeyFence
from relay.ports import Due, Settlement


@dataclass(slots=True)
class Row:
    """One parked event; its times are on anyio's clock.

    Attributes:
        event: as it was read; its message id changes with a person's retry.
        attempts, errors: how often it was refused, and every refusal's reason.
        due_at: None is as soon as no earlier event of its key is in the way.
        waits_since, refused_at: when it was tried last, and refused first.
        replay: the replay that publishes it again.
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
    replay: int | None = None


class MemoryParked:
    """``relay.ports.ParkedEvents`` over a dict. A person does ``retry``, ``replay``, ``drop``."""

    def __init__(self, *, dead_blocks: bool) -> None:
        """Begin empty."""
        self.rows: dict[str, Row] = {}
        self._dead_blocks = dead_blocks

    @property
    def blocking(self) -> bool:
        """Whether any event makes the later ones of its key queue."""
        return bool(self._chains())

    def retry(self, event_id: str) -> None:
        """Have a dead event tried again, under a message id of its own."""
        row = self.rows[event_id]
        row.dead, row.attempts, row.retries, row.refused_at = False, 0, row.retries + 1, None
        row.due_at = row.waits_since = anyio.current_time()
        of_replay = "" if row.replay is None else f"-r{row.replay}"
        message_id = f"relay-{event_id}{of_replay}-{row.retries}"
        row.event = row.event._replace(message_id=message_id)

    def replay(self, events: Sequence[Event], replay: int) -> None:
        """Put delivered events among the parked, unless they are there."""
        for event in events:
            id_, headers = f"relay-{event.event_id}-r{replay}", {**(event.headers or {})}
            again = event._replace(message_id=id_, headers=headers | {"Relay-Replay": str(replay)})
            self.rows.setdefault(event.event_id, Row(again, replay=replay))

    def drop(self, event_id: str) -> None:
        """Forget a parked event."""
        del self.rows[event_id]

    async def blocked(self, keys: Collection[str]) -> set[str]:
        """Return those of ``keys`` whose next event has to queue behind a parked one."""
        await checkpoint()
        fence = KeyFence(key for chain in self._chains() if (key := chain[0].event.key) is not None)
        return {key for key in keys if not fence.passes(key)}

    async def due(self, limit: int, *, without: Collection[str] = ()) -> Sequence[Due]:
        """Return at most ``limit`` events that may be tried now, in the order of id."""
        await checkpoint()
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
            self.rows[parking.event_id] = row
            row.attempts, row.dead, row.held_by = parking.attempts, parking.dead, parking.held_by
            now = row.waits_since = anyio.current_time()
            row.due_at = None if parking.delay is None else now + parking.delay
            if parking.attempts and not parking.held_by:
                row.errors.append(parking.error)
                row.refused_at = now if row.refused_at is None else row.refused_at
        for event_id in done.unparked:
            self.rows.pop(event_id, None)

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
        for row in chain:
            if row.dead or (row.due_at or 0.0) > now or (row.held_by and row.held_by in without):
                return
            age = 0.0 if row.refused_at is None else now - row.refused_at
            yield Due(row.event, row.attempts, row.held_by, age, replay=row.replay)
