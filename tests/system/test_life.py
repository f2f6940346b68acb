"""A relay's life as its operator sees it: start, stand by, take over, stop, refuse, report."""

import json
import sys
from pathlib import Path

import nats
import psycopg
import pytest

from relay import devstack
from relay.audit.oracle import digest
from relay.audit.stream import read_stream
from tests import warm
from tests.system.harness import STREAM, Load, RelayProcess, connected, delivered, until, verdict

pytestmark = pytest.mark.anyio

MIB = 1 << 20


def holder(dsn: str) -> tuple[int, int]:
    """The epoch and the pid of who leads."""
    with connected(dsn) as look:
        row = look.execute("select epoch, holder from relay.cursor").fetchone()
    assert row is not None
    return row[0], int(row[1].split(":")[1]) if row[1] else 0


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
async def test_a_stopped_relay_settles_what_is_in_flight_and_exits_with_0(
    outbox_dsn: str, own_nats: devstack.NatsServer, tmp_path: Path, signal: str
) -> None:
    import signal as signals

    with (
        RelayProcess(outbox_dsn, own_nats.url, tmp_path / "relay.log") as relay,
        Load(outbox_dsn) as load,
    ):
        until(lambda: delivered(outbox_dsn) > 100, 20)
        relay.process.send_signal(signals.Signals[signal])
        assert relay.process.wait(10) == 0
        load.stop()
    stored = await read_stream(own_nats.url, STREAM)
    assert len(stored) == delivered(outbox_dsn), "what was published is not what was settled"


async def test_a_second_relay_stands_by_and_takes_over_when_the_first_ends(
    outbox_dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    with RelayProcess(outbox_dsn, own_nats.url, tmp_path / "first.log") as first:
        until(lambda: holder(outbox_dsn) == (1, first.process.pid), 20)
        with (
            RelayProcess(outbox_dsn, own_nats.url, tmp_path / "second.log") as second,
            Load(outbox_dsn) as load,
        ):
            until(lambda: "standing by" in second.log.read_text(), 20)
            until(lambda: delivered(outbox_dsn) > 50, 20)
            assert holder(outbox_dsn) == (1, first.process.pid)
            assert first.terminate() == 0
            until(lambda: holder(outbox_dsn) == (2, second.process.pid), 20)
            before = delivered(outbox_dsn)
            until(lambda: delivered(outbox_dsn) > before, 20)
            load.stop()
            found = await verdict(load, own_nats.url)
            assert found.is_clean, found


async def test_what_cannot_be_stored_is_dead_with_the_reason_and_its_key_moves_on(
    outbox_dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    """R-FATE. The server's limit is 1 MiB for headers and payload together."""
    wide = {"filler": "x" * 1000}
    with psycopg.connect(outbox_dsn) as producer:
        write(producer, "orders.under", "k", MIB - 2048, wide)
        write(producer, "orders.over", "k", MIB - 512, wide)
        write(producer, "orders.after", "k", 10, {})
    settings = {"max_attempts": "2", "circuit_breaker_lag": "60s"}
    with RelayProcess(outbox_dsn, own_nats.url, tmp_path / "relay.log", **settings) as relay:
        until(lambda: delivered(outbox_dsn) == 2, 20)
        stored = await read_stream(own_nats.url, STREAM)
        assert [message.subject for message in stored] == ["orders.under", "orders.after"]
        assert stored[0].digest == digest(b"y" * (MIB - 2048))
        ((subject, error, size),) = parked(outbox_dsn)
        assert (subject, size) == ("orders.over", MIB - 512)
        assert "1048576" in error
        status = ask_status(outbox_dsn, own_nats.url)
        assert (status["parked"], status["dead"], status["circuit_breaker"]) == (0, 1, "closed")
        assert status["backlog"] == 0
        assert relay.terminate() == 0


async def test_what_no_stream_ever_captured_outlives_its_attempts_and_comes_in_order(
    outbox_dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    """R-FATE, R-ORDER. A person may be about to make the stream, so it is not dead yet."""
    with psycopg.connect(outbox_dsn) as producer:
        write(producer, "nobody.listens", "k", 10, {})
        write(producer, "orders.after", "k", 10, {})
        write(producer, "orders.other", "other", 10, {})
    settings = {"max_attempts": "2", "max_retry_delay": "500ms"}
    with RelayProcess(outbox_dsn, own_nats.url, tmp_path / "relay.log", **settings) as relay:

        def attempts() -> int:
            with connected(outbox_dsn) as look:
                row = look.execute("select max(attempts) from relay.parked").fetchone()
            return (row and row[0]) or 0

        until(lambda: attempts() > 2, 20)
        stored = await read_stream(own_nats.url, STREAM)
        assert [message.subject for message in stored] == ["orders.other"]
        (unclaimed, behind) = parked(outbox_dsn)
        assert (unclaimed[0], behind[0]) == ("nobody.listens", "orders.after")
        assert "no stream captures" in unclaimed[1]
        status = ask_status(outbox_dsn, own_nats.url)
        assert (status["parked"], status["dead"]) == (2, 0)

        await capture(own_nats.url, ["orders.>", "nobody.>"])
        until(lambda: delivered(outbox_dsn) == 3, 20)
        stored = await read_stream(own_nats.url, STREAM)
        assert [message.subject for message in stored][1:] == ["nobody.listens", "orders.after"]
        assert relay.terminate() == 0


def write(
    producer: psycopg.Connection, subject: str, key: str, size: int, headers: dict[str, str]
) -> None:
    producer.execute(
        "insert into relay.outbox (subject, key, payload_bytes, headers) values (%s, %s, %s, %s)",
        (subject, key, b"y" * size, json.dumps(headers)),
    )


def parked(dsn: str) -> list[tuple[str, str, int]]:
    """Subject, reason and size of what is parked, in the order of id."""
    with connected(dsn) as look:
        return look.execute(
            "select p.subject, p.last_error, octet_length(o.payload_bytes)"
            "  from relay.parked as p join relay.outbox as o using (id, event_id) order by id"
        ).fetchall()


async def capture(url: str, subjects: list[str]) -> None:
    """Have the stream capture ``subjects``."""
    client = await nats.connect(url)
    try:
        jetstream = client.jetstream()
        config = (await jetstream.stream_info(STREAM)).config
        config.subjects = subjects
        await jetstream.update_stream(config)
    finally:
        await client.close()


def ask_status(dsn: str, nats_url: str) -> dict[str, object]:
    answer = warm.run(
        [sys.executable, "-m", "relay", "status", "--json"],
        env={
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "RELAY_POSTGRES_DSN": dsn,
            "RELAY_NATS_URL": nats_url,
            "RELAY_STREAM": STREAM,
        },
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


async def test_the_status_names_the_leader_and_the_path(
    outbox_dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    with RelayProcess(outbox_dsn, own_nats.url, tmp_path / "relay.log") as relay:
        until(lambda: "publishing by" in relay.log.read_text(), 20)
        status = ask_status(outbox_dsn, own_nats.url)
        assert status["epoch"] == 1
        assert str(relay.process.pid) in str(status["leader"])
        assert status["lag_seconds"] == 0
        assert status["stream"]["path"] == "fast ingest"  # type: ignore[index]
        relay.terminate()
        until(lambda: ask_status(outbox_dsn, own_nats.url)["leader"] is None, 10)


async def test_a_missing_schema_ends_in_one_line_and_exit_code_3(
    database: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    with RelayProcess(database, own_nats.url, tmp_path / "relay.log") as relay:
        assert relay.process.wait(20) == 3
    assert "python -m relay migrate" in relay.log.read_text()
    assert "Traceback" not in relay.log.read_text()


async def test_a_named_stream_that_is_missing_ends_in_one_line_and_exit_code_3(
    outbox_dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    settings = {"stream_create": "false", "stream_subjects": ""}
    with RelayProcess(outbox_dsn, own_nats.url, tmp_path / "relay.log", **settings) as relay:
        assert relay.process.wait(20) == 3
    assert "RELAY_STREAM_CREATE" in relay.log.read_text()
    assert "Traceback" not in relay.log.read_text()
