"""What the events take up at both ends, as a look at them found it. Values, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OutboxStorage:
    """The outbox in the database.

    Attributes:
        size_bytes: the table with its indexes.
        dead_rows: deleted rows of it that vacuum has not removed, as the database estimates them.
        oldest_transaction: age in s of the oldest one that holds back vacuum, 0.0 if none does;
            None where not all of them may be seen.
        sessions: this relay's open ones, by duty.
    """

    size_bytes: int
    dead_rows: int
    oldest_transaction: float | None
    sessions: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class StreamStorage:
    """One stream of the broker."""

    stream: str
    messages: int
    size_bytes: int
