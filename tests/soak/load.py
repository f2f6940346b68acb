"""Producers, each a thread with keys of its own, and the ledger of what they committed.

    insert … ─► commit ──ok──► in the ledger
                   └──the server died──► in doubt ──are the rows there?──► in the ledger, or not

Authoritative: Postgres. A commit whose answer was lost is settled as soon as the server is back and
before its producer goes on, long before the retention may delete the rows. Not by pg_xact_status:
a transaction id that never reached the disk is given out again after a crash.
"""

import itertools
import json
import random
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import psycopg

from relay.audit.oracle import Committed, digest

INSERT = (
    "insert into relay.outbox (event_id, idempotency_key, subject, key, payload_bytes, headers)"
    " values (%s, %s, %s, %s, %s, %s)"
)
FOREIGN_INSERT = (
    "insert into relay.outbox"
    " (event_id, idempotency_key, subject, key, payload_bytes, headers, xid)"
    " values (%s, %s, %s, %s, %s, %s, (pg_current_xact_id()::text::bigint + 1000000)::text::xid8)"
)
"""As ``INSERT``, by an owner who brings a transaction id that no transaction has had yet."""

SUBJECT = "orders.placed"
UNCLAIMED = "nobody.listens"
THEIRS = "theirs/"
"""What the message ids begin with that another application has used before us."""

TOO_LARGE = 1 << 20
"""Bytes: with its headers above the limit of the server itself, which nobody changes."""

SIZES = (16, 256, 2048)
KEYS = 20
WITHOUT_KEY = 0.05
RECONNECT_PAUSE = 0.1
DOUBT_ENDS_WITHIN = 60.0


class Draft(NamedTuple):
    """An event to be written: what the outbox gets, and what the oracle will compare."""

    committed: Committed
    row: tuple[str, str | None, str, str | None, bytes, str | None]


class Ledger:
    """What was committed.

    Attributes:
        unstorable: those that must end as dead events.
        unclaimed: those that no stream captures: kept, and not dead before ten minutes are over.
    """

    def __init__(self) -> None:
        self.committed: dict[str, Committed] = {}
        self.unstorable: set[str] = set()
        self.unclaimed: set[str] = set()
        self.rolled_back = 0

    def add(self, drafts: Sequence[Draft]) -> None:
        self.committed |= {draft.committed.event_id: draft.committed for draft in drafts}
        self.unclaimed |= {d.committed.event_id for d in drafts if d.row[2] == UNCLAIMED}
        self.unstorable |= {
            draft.committed.event_id
            for draft in drafts
            if len(draft.row[4]) >= TOO_LARGE or (draft.row[1] or "").startswith(THEIRS)
        }


class Producer:
    """One writer with a name, which its keys begin with; its events are numbered as written."""

    def __init__(self, name: str, dsn: str, ledger: Ledger, chance: random.Random) -> None:
        self._name = name
        self._dsn = dsn
        self._ledger = ledger
        self._chance = chance
        self._sequence = itertools.count(1)

    def draft(
        self,
        *,
        subject: str = SUBJECT,
        key: str | None = None,
        size: int = 0,
        message_id: str | None = None,
    ) -> Draft:
        """Make the next event; without a ``key`` or a ``size`` chance gives one, or no key."""
        chance = self._chance
        event_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        if key is not None or chance.random() > WITHOUT_KEY:
            key = f"{self._name}-{key or chance.randrange(KEYS)}"
        payload = chance.randbytes(size or chance.choice(SIZES))
        named = f"order/{event_id}" if chance.random() < 0.1 else None
        named = message_id or named
        headers = json.dumps({"traceparent": event_id}) if chance.random() < 0.2 else None
        sent = Committed(event_id, key, next(self._sequence), digest(payload))
        return Draft(sent, (event_id, named, subject, key, payload, headers))

    def produce(self, stop: threading.Event, pause: float) -> None:
        """Write transactions, ``pause`` s apart, until ``stop``."""
        while not stop.is_set():
            try:
                with self._connect() as connection:
                    while not stop.wait(self._chance.expovariate(1 / pause)):
                        drafts = [self.draft() for _ in range(self._chance.choice([1, 1, 2, 5]))]
                        self.transact(connection, drafts, commit=self._chance.random() > 0.1)
            except psycopg.OperationalError:
                stop.wait(RECONNECT_PAUSE)  # the server is away, which is wanted

    def write(self, drafts: Sequence[Draft], *, hold: float = 0.0, foreign: bool = False) -> bool:
        """Commit ``drafts`` in one transaction, open for ``hold`` s; False if it failed."""
        insert = FOREIGN_INSERT if foreign else INSERT
        try:
            with self._connect() as connection:
                self.transact(connection, drafts, commit=True, hold=hold, insert=insert)
        except psycopg.OperationalError:
            return False
        return True

    def transact(
        self,
        connection: psycopg.Connection,
        drafts: Sequence[Draft],
        *,
        commit: bool,
        hold: float = 0.0,
        insert: str = INSERT,
    ) -> None:
        connection.cursor().executemany(insert, [draft.row for draft in drafts])
        threading.Event().wait(hold)
        if not commit:
            self._ledger.rolled_back += len(drafts)
            connection.rollback()
            return
        try:
            connection.commit()
        except psycopg.OperationalError:
            if self._came_through(drafts[0].committed.event_id):
                self._ledger.add(drafts)
            raise
        self._ledger.add(drafts)

    def _came_through(self, event_id: str) -> bool:
        """Look whether the row is there, as soon as the server is back."""
        look = "select exists (select from relay.outbox where event_id = %s::uuid)"
        deadline, pause = time.monotonic() + DOUBT_ENDS_WITHIN, threading.Event()
        while True:
            try:
                with self._connect() as connection:
                    row = connection.execute(look, (event_id,)).fetchone()
                assert row is not None
                return bool(row[0])
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                pause.wait(RECONNECT_PAUSE)

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(self._dsn, connect_timeout=5, application_name="soak producer")


class Load:
    """Steady producers at ``rate`` events/s of all together, between ``start`` and ``stop``."""

    def __init__(self, dsn: str, ledger: Ledger, seed: int, rate: float, producers: int = 4):
        self._producers = [
            Producer(f"p{number}", dsn, ledger, random.Random(f"producer {seed} {number}"))
            for number in range(producers)
        ]
        self._pause = producers * 2.25 / rate  # 2.25 events in a transaction, on average
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=producer.produce, args=(self._stop, self._pause))
            for producer in self._producers
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def singles(seed: int, ledger: Ledger, dsn: str) -> Iterator[Producer]:
    """Make producers for single transactions, each with keys that nobody else uses."""
    for number in itertools.count():
        chance = random.Random(f"single {seed} {number}")
        yield Producer(f"s{number}", dsn, ledger, chance)
