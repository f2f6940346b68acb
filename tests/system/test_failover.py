"""Who may write changes: standbys, failovers, a primary that becomes read-only under its sessions.

Real clusters of one major version, streaming to each other. The stream is the witness: JetStream
stamps each message as it stores it, so what was published before a promotion, or while nobody could
write, shows afterwards, whatever the relay says of itself.

The standbys are synchronous: Postgres shows a commit, to the relay as to its producer, only once
the standby has it. Without that a failover loses commits that the relay may have published already,
and no relay could know.
"""

import asyncio
import json
import socket
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from relay import devstack
from relay.demo.oracle import Committed, StreamMessage, digest, judge
from relay.demo.readback import read_stream
from relay.devstack.pgserver import standby
from relay.postgres import migrations
from tests.system.harness import (
    INSERT,
    STREAM,
    Load,
    RelayProcess,
    connected,
    delivered,
    until,
    verdict,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

SETTINGS = {
    "fsync": "off",
    "wal_retrieve_retry_interval": "100ms",  # a standby finds its promoted primary again at once
}
BEGINS = 2.0
"""Seconds after which the relay is back at work, once there is somebody to write to."""

FOUND = 20.0
"""Seconds in which each of the relay's first sessions can find a primary behind two such hosts."""

LINES_APART = 0.9
"""Seconds: at most one line a second is written, but each says when what it tells was so."""

OUTAGE = 3.0
"""Seconds that a wait lasts: enough for a dozen tries of the relay."""

IN_FLIGHT = 0.5
"""Seconds in which the NATS server may still store what had left the relay before its outage."""

FLOWED = 200
"""Events delivered before anything happens."""


@pytest.fixture
def own_postgres(postgres_server: devstack.Postgres) -> Iterator[devstack.Postgres]:
    """A cluster of the same major version that the test may kill, with the outbox in it."""
    installation = next(i for i in devstack.find_postgres() if i.major == postgres_server.major)
    with devstack.postgres(installation, settings=SETTINGS) as server:
        asyncio.run(migrations.migrate(server.dsn, "relay"))
        yield server


class Wait:
    """A relay's wait for a Postgres that it can write to, from its first word about it."""

    def __init__(self, relay: RelayProcess, waits: int = 1) -> None:
        """Wait until the relay says, for the ``waits``-th time, that Postgres is away."""
        self._relay = relay
        self._waits = waits
        until(lambda: bool(self.said()), 10)
        self.began_at = _at(self.said()[0])

    def said(self) -> list[dict[str, Any]]:
        """Everything said since, with what began it at the head; empty before."""
        lines = self._relay.said()
        heads = [number for number, line in enumerate(lines) if _is_outage(line)]
        return lines[heads[self._waits - 1] :] if len(heads) >= self._waits else []

    def lasts(self) -> None:
        """See the relay wait: it does not end, and says no more than a line a second."""
        threading.Event().wait(OUTAGE)
        assert self._relay.process.poll() is None, self._relay.log.read_text()
        sparing(self.said())


def sparing(lines: Sequence[dict[str, Any]]) -> None:
    """See that no two of these lines came within a second."""
    for one, other in pairwise(lines):
        assert (_at(other) - _at(one)).total_seconds() >= LINES_APART, (one, other)


def _at(line: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(line["ts"])


def _is_outage(line: dict[str, Any]) -> bool:
    return line["event"].startswith("outage: ") and line.get("side") == "postgres"


def stored_at(message: StreamMessage) -> datetime:
    assert message.stored_at is not None
    return message.stored_at


def begins(stream: Sequence[StreamMessage], since: datetime) -> float:
    """Find how long after an instant something was published first, in s."""
    seconds = min(stored_at(m) for m in stream if stored_at(m) >= since) - since
    print(f"publishes {seconds.total_seconds():.2f} s after it can")  # noqa: T201 - a figure
    return seconds.total_seconds()


def flows(dsn: str, events: int = FLOWED) -> None:
    """Wait until more is delivered than now."""
    before = delivered(dsn)
    until(lambda: delivered(dsn) >= before + events, 20)


def unharmed(dsn: str) -> None:
    """See that no event was refused, parked or dead."""
    with connected(dsn) as look:
        assert look.execute("select refused from relay.cursor").fetchall() == [(0,)]
        assert look.execute("select id, attempts, last_error from relay.parked").fetchall() == []


def alter(dsn: str, setting: str) -> None:
    """Change a server setting under all its sessions."""
    with connected(dsn) as change:
        change.execute(f"alter system set {setting}")  # type: ignore[arg-type]
        change.execute("select pg_reload_conf()")


def shown(dsn: str, setting: str) -> str:
    """What a new session gets."""
    with connected(dsn) as look:
        row = look.execute("select current_setting(%s)", (setting,)).fetchone()
    assert row is not None
    return row[0]


def at_ports(server: devstack.Postgres, *ports: int) -> str:
    """Name several hosts to be tried in this order."""
    hosts = ",".join("127.0.0.1" for _ in ports)
    return make_conninfo(server.dsn, host=hosts, port=",".join(map(str, ports)))


@contextmanager
def silent() -> Iterator[int]:
    """Be a host that accepts and answers nothing, such as a frozen primary; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("readable", [True, False], ids=["hot standby", "in recovery"])
async def test_a_relay_that_finds_only_a_standby_waits_and_begins_once_that_is_promoted(
    own_postgres: devstack.Postgres,
    own_nats: devstack.NatsServer,
    tmp_path: Path,
    readable: bool,
) -> None:
    hot = {"hot_standby": "on" if readable else "off"}
    with (
        standby(own_postgres, SETTINGS | hot) as second,
        RelayProcess(second.dsn, own_nats.url, tmp_path / "relay.log") as relay,
    ):
        wait = Wait(relay)
        with Load(own_postgres.dsn) as load:
            wait.lasts()
        own_postgres.stop()  # in order: the standby has everything
        promoting_at = datetime.now(UTC)
        second.promote()
        promoted_at = datetime.now(UTC)
        until(lambda: delivered(second.dsn) > 0, 20)
        found = await verdict(load, own_nats.url)
        assert found.is_clean, found
        assert len(load.committed) > FLOWED
        stream = await read_stream(own_nats.url, STREAM)
        assert stored_at(stream[0]) > promoting_at
        assert begins(stream, promoted_at) <= BEGINS
        unharmed(second.dsn)
        assert relay.terminate() == 0


async def test_two_failovers_in_a_row_lose_repeat_and_reorder_nothing(
    own_postgres: devstack.Postgres, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    alter(own_postgres.dsn, "synchronous_standby_names = '*'")  # which its copies inherit
    last = {"synchronous_standby_names": ""}
    with (
        standby(own_postgres, SETTINGS) as second,
        standby(second, SETTINGS | last) as third,
    ):
        servers = [own_postgres, second, third]
        # The next primary stands before the present one, so that each try meets a standby first.
        dsn = at_ports(own_postgres, *(server.port for server in reversed(servers)))
        writing = make_conninfo(dsn, target_session_attrs="read-write")
        promotions = []
        with (
            RelayProcess(dsn, own_nats.url, tmp_path / "relay.log") as relay,
            RelayProcess(dsn, own_nats.url, tmp_path / "other.log") as other,
            Load(writing) as load,
        ):
            for primary, successor in pairwise(servers):
                flows(writing)
                primary.kill()
                successor.promote()
                promotions.append(datetime.now(UTC))
            flows(writing)
            load.stop()
            found = await verdict(load, own_nats.url)
            assert found.is_clean, found
            unharmed(writing)
            assert [relay.process.poll(), other.process.poll()] == [None, None]
            assert [relay.terminate(), other.terminate()] == [0, 0]
        stream = await read_stream(own_nats.url, STREAM)
        for promoted_at in promotions:
            assert begins(stream, promoted_at) <= BEGINS


async def test_a_primary_made_read_only_under_load_is_waited_for_and_costs_no_attempt(
    own_postgres: devstack.Postgres, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    dsn = own_postgres.dsn
    # The producers go on: there is always something that the relay would publish if it could.
    writing = make_conninfo(dsn, options="-c default_transaction_read_only=off")
    waits, back = list[Wait](), list[datetime]()
    with (
        RelayProcess(dsn, own_nats.url, tmp_path / "relay.log") as relay,
        Load(writing) as load,
    ):
        for number in (1, 2):
            flows(dsn)
            alter(dsn, "default_transaction_read_only = on")
            waits.append(Wait(relay, number))
            waits[-1].lasts()
            alter(writing, "default_transaction_read_only = off")
            back.append(datetime.now(UTC))
        flows(dsn)
        load.stop()
        found = await verdict(load, own_nats.url)
        assert found.is_clean, found
        unharmed(dsn)
        assert relay.process.poll() is None
        assert relay.terminate() == 0
    assert "read-only" in json.dumps(waits[0].said()[0])
    stream = await read_stream(own_nats.url, STREAM)
    for wait, back_at in zip(waits, back, strict=True):
        during = [m for m in stream if wait.began_at <= stored_at(m) < back_at]
        late = [m for m in during if (stored_at(m) - wait.began_at).total_seconds() > IN_FLIGHT]
        assert not late
        assert begins(stream, back_at) <= BEGINS


@pytest.mark.parametrize("retention", ["1h", "1s"])
async def test_a_primary_made_read_only_under_an_idle_relay_is_borne_in_few_words(
    own_postgres: devstack.Postgres, own_nats: devstack.NatsServer, tmp_path: Path, retention: str
) -> None:
    dsn = own_postgres.dsn
    events = [Committed(str(uuid.uuid4()), "k", number, digest(b"e")) for number in range(2)]

    def write(event: Committed) -> None:
        with psycopg.connect(dsn) as producer:
            producer.execute(INSERT, (event.event_id, "orders.placed", event.key, b"e"))

    with RelayProcess(dsn, own_nats.url, tmp_path / "relay.log", retention=retention) as relay:
        write(events[0])
        until(lambda: delivered(dsn) == 1, 20)
        before = len(relay.said())
        alter(dsn, "default_transaction_read_only = on")
        until(lambda: shown(dsn, "default_transaction_read_only") == "on", 10)
        threading.Event().wait(OUTAGE)
        assert relay.process.poll() is None
        # A write at that very moment ends the term, which is told in one breath with the outage.
        few = [line for line in relay.said()[before:] if line["event"] != "term ended"]
        alter(
            make_conninfo(dsn, options="-c default_transaction_read_only=off"),
            "default_transaction_read_only = off",
        )
        until(lambda: shown(dsn, "default_transaction_read_only") == "off", 10)
        back_at = datetime.now(UTC)
        write(events[1])
        until(lambda: delivered(dsn) == 2, 20)
        stream = await read_stream(own_nats.url, STREAM)
        assert judge(events, stream).is_clean
        assert begins(stream, back_at) <= BEGINS
        unharmed(dsn)
        assert relay.terminate() == 0
    sparing(few)


async def test_a_primary_behind_two_hosts_that_answer_nothing_is_found(
    own_postgres: devstack.Postgres, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    with silent() as first, silent() as second:
        dsn = at_ports(own_postgres, first, second, own_postgres.port)
        with (
            psycopg.connect(own_postgres.dsn, autocommit=True) as producer,
            RelayProcess(dsn, own_nats.url, tmp_path / "relay.log"),
        ):
            producer.execute("select relay.emit('orders.placed', '{}'::jsonb)")
            until(lambda: delivered(own_postgres.dsn) == 1, FOUND)
