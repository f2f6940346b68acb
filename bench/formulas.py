"""What a load takes, as formulas: README.md's "How much it takes". ``sizing`` checks them."""

import math
from dataclasses import dataclass

from relay.core.pace import Pace

TENDED = 10.0
"""Seconds between two looks for rows past their retention, at most; and a tenth of it at most."""

VACUUMED_AT = 20_000
"""Dead rows at which the outbox is vacuumed: autovacuum_vacuum_threshold of the table."""

DEAD = 1.3
"""Of the rows that die from one vacuum to the next: more die while it is at work."""

ROW, TOAST_ROW, TOASTED_FROM = 155, 70, 1_950
CHUNK, PER_CHUNK = 1_996, 80
"""Bytes: of a row and its two indexes, besides what it holds; of a row whose payload stands apart,
in addition; and of a chunk of such a payload."""

WAL_INSERT, WAL_COMMIT, WAL_DELETE = 255, 45, 90
WAL_RELAY = 2_000
"""Bytes: an INSERT besides what it holds, a commit, a deletion with its vacuum; the relay's own a
second."""

ID = 145
"""Bytes of nats-server's heap for a message id that a stream remembers."""

SESSIONS = 5
SESSIONS_OF_STANDBY = 1


@dataclass(frozen=True)
class Load:
    """Events that come.

    Attributes:
        rate: events/s, each its own commit.
        payload: bytes.
        names: bytes of subject, key, idempotency key and headers together.
        retention: s.
        naptime: Postgres' autovacuum_naptime, s.
        checkpoint: from one checkpoint to the next, s.
        window: the stream's duplicate window, s.
        vacuumed_every: s, where it was seen; 0 where it follows from the rate.
    """

    rate: float
    payload: int
    names: int = 17
    retention: float = 900.0
    naptime: float = 60.0
    checkpoint: float = 300.0
    window: float = 120.0
    vacuumed_every: float = 0.0


def rows(load: Load) -> float:
    """Return the rows of the outbox."""
    seconds = load.retention * 17 / 16 + min(TENDED, load.retention / 10)
    return load.rate * seconds


def chunks(load: Load) -> int:
    """Return in how many pieces a payload stands apart from its row; 0 if it does not."""
    return math.ceil(load.payload / CHUNK) if load.payload + load.names > TOASTED_FROM else 0


def row_bytes(load: Load) -> float:
    """Return what an event takes in the table and its indexes."""
    taken: float = ROW + load.names + load.payload
    return taken + TOAST_ROW + chunks(load) * PER_CHUNK if chunks(load) else taken


def vacuumed_every(load: Load, rows_each: int = 1) -> float:
    """Return the s from one vacuum to the next of a table with so many rows an event."""
    return load.vacuumed_every or VACUUMED_AT / load.rate / rows_each + load.naptime / 2


def disk_bytes(load: Load) -> float:
    """Return what the outbox takes; dead rows wait for vacuum, payloads apart for their own."""
    apart = load.payload if chunks(load) else 0
    dead = load.rate * vacuumed_every(load) * DEAD
    dead_apart = load.rate * vacuumed_every(load, max(1, chunks(load))) * DEAD
    held = row_bytes(load) * rows(load)
    return held + (row_bytes(load) - apart) * dead + apart * dead_apart


def images(load: Load) -> float:
    """Return how often a page is written to the WAL as a whole: first changed behind a checkpoint.

    When its rows are deleted, if a checkpoint came within the retention; with data checksums also
    when vacuum marks it visible, and when vacuum clears it, if one came in between.
    """
    deleted = min(1.0, load.retention / load.checkpoint)
    vacuumed = min(1.0, vacuumed_every(load) / 2 / load.checkpoint)
    return deleted + 2 * vacuumed


def wal_bytes(load: Load) -> float:
    """Return bytes of WAL a second, those of the producers' INSERT and commit included."""
    each = WAL_INSERT + WAL_COMMIT + WAL_DELETE + load.names + load.payload
    each += chunks(load) * (PER_CHUNK + WAL_DELETE)
    return load.rate * (each + images(load) * row_bytes(load)) + WAL_RELAY


def window_bytes(load: Load) -> float:
    """Return the heap of nats-server for the ids of a stream's duplicate window."""
    return load.rate * load.window * ID


def sessions(standbys: int = 1) -> int:
    """Return the sessions of one outbox's relays."""
    return SESSIONS + standbys * SESSIONS_OF_STANDBY


@dataclass(frozen=True)
class Machine:
    """CPU of the relay and its sessions, as shares of a core.

    Attributes:
        rest: when nothing comes.
        ring: for each event while the bell is on, that is below some 300/s.
        read: for each read above.
        event: for each event above.
    """

    rest: float
    ring: float
    read: float
    event: float

    def rung(self, rate: float) -> float:
        """Return the share while each event rings."""
        return self.rest + self.ring * rate

    def paced(self, rate: float) -> float:
        """Return the share while the relay reads at its pace, from some 4,000/s on."""
        return self.rest + self.read * reads(rate) + self.event * rate


def reads(rate: float) -> float:
    """Return the reads a second above which the relay is not rung."""
    return 1 / Pace(rate).pause(0.1)
