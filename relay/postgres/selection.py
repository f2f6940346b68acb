"""Which delivered events a replay is about, and what of them there is."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self

from relay.postgres.operator import regex_of


@dataclass(frozen=True, slots=True)
class Selection:
    """Which delivered events are meant: those that fulfil all that is given.

    Attributes:
        from_id, to_id: ids, both inclusive.
        since, until: by ``created_at``, the second exclusive.
        subject: a NATS pattern.
        key: the key, exactly.
        event_ids, idempotency_keys: those that one of the two names.
    """

    from_id: int | None = None
    to_id: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    subject: str | None = None
    key: str | None = None
    event_ids: Sequence[str] = ()
    idempotency_keys: Sequence[str] = ()

    def as_json(self) -> str:
        """Write what is given, for the replay's row."""
        given = {name: value for name, value in asdict(self).items() if value not in (None, ())}
        return json.dumps(given, default=str)

    @classmethod
    def of_json(cls, text: str) -> Self:
        """Read what ``as_json`` has written."""
        given = json.loads(text)
        for name in ("since", "until"):
            if name in given:
                given[name] = datetime.fromisoformat(given[name])
        return cls(**given)

    def params(self) -> dict[str, Any]:
        """Return the parameters of ``replay_look`` and ``replay_list``."""
        named = bool(self.event_ids or self.idempotency_keys)
        return {
            "from_id": -(1 << 63) if self.from_id is None else self.from_id,
            "to_id": (1 << 63) - 1 if self.to_id is None else self.to_id,
            "since": self.since,
            "until": self.until,
            "subject": None if self.subject is None else regex_of(self.subject),
            "key": self.key,
            "event_ids": list(self.event_ids) if named else None,
            "idempotency_keys": list(self.idempotency_keys),
        }


@dataclass(frozen=True, slots=True)
class Matches:
    """What matches a selection.

    Attributes:
        events: how many are delivered and not parked: what a replay would publish.
        first_id, last_id, first_at, last_at: the range of those delivered; None without any.
        parked: how many of those delivered are parked, or dead, and so left out.
        waiting: how many are not delivered yet, and so left out.
        young: how many of ``events`` may have been stored within the duplicate window.
        matching: how many match in all.
        lowest_id, lowest_at: of the first event that the outbox holds; None if it is empty.
    """

    events: int
    first_id: int | None
    last_id: int | None
    first_at: datetime | None
    last_at: datetime | None
    parked: int
    waiting: int
    young: int
    matching: int
    lowest_id: int | None
    lowest_at: datetime | None
