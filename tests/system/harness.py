"""A load, relays as processes, and the verdict: what every system test is made of.

The producers are authoritative: they know what they committed. Where a server died under a commit,
the outbox itself is asked afterwards whether it came through.
"""

import itertools
import json
import os
import random
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import psycopg

from relay.audit.oracle import Committed, Findings, compare, digest
from relay.audit.stream import read_stream
from tests import warm

ROOT = Path(__file__).parents[2]
STREAM = "EVENTS"
INSERT = "insert into relay.outbox (event_id, subject, key, payload_bytes) values (%s, %s, %s, %s)"


class RelayProcess:
    """``python -m relay run`` against the given servers."""

    def __init__(
        self,
        dsn: str,
        nats_url: str,
        log: Path,
        *,
        variables: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
        **settings: str,
    ) -> None:
        """Start it, ``within`` what runs a command elsewhere; a setting of "" is left out."""
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "RELAY_POSTGRES_DSN": dsn,
            "RELAY_NATS_URL": nats_url,
            "RELAY_STREAM": STREAM,
            "RELAY_STREAM_SUBJECTS": "orders.>",
            "RELAY_STREAM_CREATE": "true",
            "RELAY_RETENTION": "1h",
            "RELAY_LOG_FORMAT": "json",
            "RELAY_HTTP": "off",
        } | {f"RELAY_{name.upper()}": value for name, value in settings.items()}
        environment |= variables or {}
        environment = {name: value for name, value in environment.items() if value}
        self.log = log
        module = "tests.failpoints" if "failpoints" in settings else "relay"
        with log.open("ab") as out:
            self.process = warm.Popen(
                [*within, sys.executable, "-m", module, "run"],
                env=environment,
                stdout=out,
                stderr=out,
            )

    def said(self) -> list[dict[str, Any]]:
        """Every line of the log, read."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)

    def end(self) -> None:
        """Leave nothing of it."""
        if self.process.poll() is None:
            self.kill()

    def add_to(self, failure: BaseException) -> None:
        """Note in a test's failure whether it runs (-6: ended by signal 6), and its last lines."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
        is_now = f"{self.log.name}: the relay's poll() is {self.process.poll()}; it wrote last:"
        failure.add_note("\n".join([is_now, *lines]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: object, failure: BaseException | None, _traceback: object) -> None:
        if failure is not None:
            self.add_to(failure)
        self.end()


class Start(Protocol):
    """Starts a relay that ends with the test."""

    def __call__(self, dsn: str, nats_url: str, **settings: str) -> RelayProcess:
        """Start one."""
        ...


EMIT = (
    "insert into relay.outbox (subject, key, payload, idempotency_key) values (%s, %s, %s, %s)"
    " returning event_id::text"
)


def emit(
    where: str | psycopg.Connection,
    subject: str,
    key: str | None = None,
    *,
    number: int = 0,
    message_id: str | None = None,
) -> str:
    """Write one event, in a transaction of its own if ``where`` is a database; its event_id."""
    if isinstance(where, str):
        with psycopg.connect(where) as connection:
            return emit(connection, subject, key, number=number, message_id=message_id)
    values = (subject, key, json.dumps({"number": number}), message_id)
    row = where.execute(EMIT, values).fetchone()
    assert row is not None
    return row[0]


def alone(dsn: str, query: str, *values: object) -> Any:
    """Ask for one value."""
    with connected(dsn) as look:
        row = look.execute(query.encode(), values or None).fetchone()
    return None if row is None else row[0]


def leader(dsn: str) -> tuple[int, int]:
    """The epoch, and the process that began the present term; 0 if none did."""
    with connected(dsn) as look:
        row = look.execute("select epoch, holder from relay.cursor").fetchone()
    assert row is not None
    return row[0], int(row[1].split(":")[1]) if row[1] else 0


class Load:
    """Producers in threads, each with keys of its own, until ``stop``."""

    def __init__(
        self,
        dsn: str,
        producers: int = 3,
        pause: float = 0.002,
        subject: str = "orders.placed",
    ) -> None:
        self.committed: dict[str, Committed] = {}
        self.in_doubt: dict[str, Committed] = {}
        self.errors: list[str] = []
        self._dsn = dsn
        self._pause = pause
        self._subject = subject
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._produce, args=(number,), name=f"producer {number}")
            for number in range(producers)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, _type: object, failure: BaseException | None, _traceback: object) -> None:
        if failure is not None:
            self.add_to(failure)
        self.stop()

    def add_to(self, failure: BaseException) -> None:
        """Note in a test's failure how far the producers are, and what was in their way."""
        alive = [thread.name for thread in self._threads if thread.is_alive()]
        last = self.errors[-1] if self.errors else "none"
        failure.add_note(
            f"the load has committed {len(self.committed)} events, {len(self.in_doubt)} are in"
            f" doubt; alive: {', '.join(alive) or 'no producer'};"
            f" OperationalErrors: {len(self.errors)}, the last: {last}"
        )

    def stop(self) -> None:
        """End the load, and settle what is in doubt by looking into the outbox."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self.in_doubt:
            with connected(self._dsn) as look:
                found = look.execute(
                    "select event_id::text from relay.outbox where event_id = any(%s::uuid[])",
                    (list(self.in_doubt),),
                ).fetchall()
            self.committed |= {event_id: self.in_doubt[event_id] for (event_id,) in found}
            self.in_doubt = {}

    def _produce(self, number: int) -> None:
        chance, sequence = random.Random(number), itertools.count(1)
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._dsn, connect_timeout=2) as connection:
                    while not self._stop.wait(self._pause):
                        self._transact(connection, number, chance, sequence)
            except psycopg.OperationalError as error:
                self.errors.append(str(error).strip())
                self._stop.wait(0.05)  # the server is away, which the test wants

    def _transact(
        self,
        connection: psycopg.Connection,
        number: int,
        chance: random.Random,
        sequence: Iterator[int],
    ) -> None:
        """Write some events in one transaction; roll every tenth back."""
        written = {}
        for _ in range(chance.choice([1, 1, 2, 5])):
            event_id, key = str(uuid.uuid4()), f"{number}-{chance.randrange(20)}"
            payload = chance.randbytes(chance.choice([16, 256, 2048]))
            connection.execute(INSERT, (event_id, self._subject, key, payload))
            written[event_id] = Committed(event_id, key, next(sequence), digest(payload))
        if chance.random() < 0.1:
            connection.rollback()
            return
        try:
            connection.commit()
        except psycopg.OperationalError:
            self.in_doubt |= written
            raise
        self.committed |= written


@contextmanager
def connected(dsn: str) -> Iterator[psycopg.Connection]:
    """Connect as soon as the server accepts."""
    connection: list[psycopg.Connection] = []

    def accepted() -> bool:
        try:
            connection.append(psycopg.connect(dsn, autocommit=True, connect_timeout=2))
        except psycopg.OperationalError:
            return False
        return True

    until(accepted, 30)
    with connection[0] as opened:
        yield opened


def delivered(dsn: str) -> int:
    """How many of the events in the outbox are settled as stored; nothing may have been pruned."""
    with connected(dsn) as look:
        look.execute("set max_parallel_workers_per_gather = 0")  # a full disk has no room for them
        row = look.execute(
            "select (select count(*) from relay.outbox)"
            " - (select count(*) from relay.pending)"
            " - (select count(*) from relay.parked)"
        ).fetchone()
    assert row is not None
    return row[0]


async def verdict(load: Load, nats_url: str, name: str = STREAM) -> Findings:
    """Judge the stream against what the load committed, once everything had time to come."""
    stream = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        stream = await read_stream(nats_url, name)
        if {message.event_id for message in stream} >= set(load.committed):
            break
    return compare(load.committed.values(), stream)


def until(fact: Callable[[], bool], seconds: float) -> None:
    """Ask again and again, less and less often; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    pause, pauses = threading.Event(), 0.02
    while not fact():
        assert time.monotonic() < deadline, f"still not so after {seconds} s: {fact}"
        pause.wait(pauses)
        pauses = min(1.3 * pauses, 0.1)  # most facts cost a new session of Postgres
