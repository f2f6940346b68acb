"""What a load takes, as formulas: README.md's "How much it takes". ``sizing`` checks them."""

import math
from dataclasses import dataclass

from relay.core.pace import Pace

TENDED = 10.0
"""Seconds between two looks for rows past their retention, at most; and a tenth of it at most."""

VACUUMED_AT = 20_000
"""Dead rows at which the outbox is vacuumed: autovacuum_vacuum_threshold of the table."""

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


def row_bytes(load: Load) -> float:
    """Return what an event takes in the table and its indexes."""
    taken: float = ROW + load.names + load.payload
    if load.payload + load.names > TOASTED_FROM:
        taken += TOAST_ROW + math.ceil(load.payload / CHUNK) * PER_CHUNK
    return taken


def vacuumed_every(load: Load) -> float:
    """Return the s from one vacuum of the outbox to the next."""
    return load.vacuumed_every or VACUUMED_AT / load.rate + load.naptime / 2


def disk_bytes(load: Load) -> float:
    """Return what the outbox takes; dead rows wait for vacuum."""
    return row_bytes(load) * (rows(load) + load.rate * vacuumed_every(load))


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
    if load.payload + load.names > TOASTED_FROM:
        each += math.ceil(load.payload / CHUNK) * (PER_CHUNK + WAL_DELETE)
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
