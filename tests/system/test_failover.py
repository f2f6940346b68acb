"""Who may write changes: standbys, failovers, a primary whose settings say read-only.

Real clusters of one major version, streaming to each other. The stream is the witness: JetStream
stamps each message as it stores it, so what was published before a promotion, or while nobody could
write, shows afterwards, whatever the relay says of itself.

The standbys are synchronous: Postgres shows a commit, to the relay as to its producer, only once
the standby has it. Without that a failover loses commits that the relay may have published already,
and no relay could know.
"""

import socket
import threading
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
from relay.audit.oracle import StreamMessage
from relay.audit.stream import read_stream
from tests.devstack.standby import standby
from tests.system.failover import SETTINGS, at_ports, failing_over
from tests.system.harness import (
    STREAM,
    Load,
    RelayProcess,
    connected,
    delivered,
    until,
    verdict,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

BEGINS = 8.0
"""Seconds after which the relay is back at work, once there is somebody to write to. Who takes the
old server for a silent one needs 10."""

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
    with failing_over(postgres_server.installation) as server:
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


def flows_settled(dsn: str) -> None:
    """Wait until what is settled now has moved on twice, whatever is pruned meanwhile."""
    for _ in range(2):
        before = settled_at(dsn)
        until(lambda before=before: settled_at(dsn) != before, 20)  # type: ignore[misc]


def settled_at(dsn: str) -> object:
    with connected(dsn) as look:
        row = look.execute("select settled_at, base::text from relay.cursor").fetchone()
    assert row is not None
    return row


def unharmed(dsn: str) -> None:
    """See that no event was refused, parked or dead."""
    with connected(dsn) as look:
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


@contextmanager
def silent() -> Iterator[int]:
    """Be a host that accepts and answers nothing, such as a frozen primary; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("retention", ["1h", "1s"])
async def test_a_primary_whose_settings_say_read_only_is_read_and_settled_all_the_same(
    own_postgres: devstack.Postgres, own_nats: devstack.NatsServer, tmp_path: Path, retention: str
) -> None:
    """The relay's sessions pin what a setting would change; only a standby can't be written to."""
    dsn = own_postgres.dsn
    writing = make_conninfo(dsn, options="-c default_transaction_read_only=off")
    with RelayProcess(dsn, own_nats.url, tmp_path / "relay.log", retention=retention) as relay:
        with Load(writing) as load:
            flows_settled(dsn)
            before = len(relay.said())
            alter(dsn, "default_transaction_read_only = on")
            until(lambda: shown(dsn, "default_transaction_read_only") == "on", 10)
            flows_settled(dsn)
            with connected(dsn) as look:
                look.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name = 'relay term'"
                )
            flows_settled(dsn)  # a new session is as good as the old one
        found = await verdict(load, own_nats.url)
        assert found.is_clean, found
        unharmed(dsn)
        said = [line["event"] for line in relay.said()[before:]]
        assert not [words for words in said if "read-only" in words], said
        assert relay.terminate() == 0


@pytest.mark.slow
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
