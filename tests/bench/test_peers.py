"""The peers of the benchmarks: each that is here delivers, and ends when it is told to."""

import asyncio
import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import nats
import psycopg
import pytest
from nats.js.errors import NotFoundError

from bench.ours import Ours
from bench.peers import FLOOR, PEERS, by_name
from bench.peers.base import READY, Peer, UnavailableError, number_of, payload
from bench.peers.homes import NodeHome
from bench.peers.pg_transactional_outbox import REPLICATION
from relay import devstack

EVENTS = 200
PATIENCE = 30.0
EVERYBODY = (*PEERS, Ours(), FLOOR)
SETTINGS = {"fsync": "off", "wal_level": "logical", "max_connections": "120"}


@pytest.fixture(scope="module")
def logical_postgres() -> Iterator[devstack.Postgres]:
    """One that lets its log be read, which a peer asks for."""
    with devstack.postgres(settings=SETTINGS) as server:
        yield server


@pytest.fixture
def empty_database(logical_postgres: devstack.Postgres) -> str:
    """Gone with its server: a peer's slot may hold it."""
    return logical_postgres.create_database(f"peer_{uuid.uuid4().hex[:8]}")


@pytest.mark.parametrize("number", [0, 7, 123_456_789])
@pytest.mark.parametrize("size", [64, 256, 10_000])
def test_a_payload_keeps_its_number_however_it_is_wrapped(empty_database, number, size):
    with psycopg.connect(empty_database) as connection:
        query = (
            f"select text, text::jsonb::text from (select {payload(str(number), size)}) as t (text)"
        )
        found = connection.execute(query.encode()).fetchone()
    assert found is not None
    text, rewritten = found
    assert abs(len(text) - size) < 10
    assert json.loads(text)["event_number"] == number
    compact = json.dumps(json.loads(text), separators=(",", ":"), sort_keys=True)
    for message in (text, rewritten, compact, json.dumps(text), json.dumps({"payload": text})):
        assert number_of(message.encode()) == number


def test_a_message_without_a_number_is_no_event():
    with pytest.raises(ValueError, match="without an event's number"):
        number_of(b'{"number": 1}')


def test_peers_are_told_apart_by_their_names():
    assert len({peer.name for peer in PEERS}) == len(PEERS)
    for peer in PEERS:
        assert by_name(peer.name) is peer
    with pytest.raises(KeyError):
        by_name("nobody")


LOSES = pytest.mark.xfail(
    strict=False,
    reason="it reads a commit in the log before its row can be seen, and then passes it over",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "peer",
    [
        pytest.param(peer, id=peer.name, marks=[LOSES] if peer is REPLICATION else [])
        for peer in EVERYBODY
    ],
)
def test_a_peer_delivers_everything_and_ends_when_told(peer, empty_database, own_nats, tmp_path):
    skip_unless_here(peer)
    asyncio.run(make_stream(own_nats.url))
    peer.prepare(empty_database)
    backlog = 0 if peer is FLOOR else EVENTS // 2
    write(peer, empty_database, 0, backlog)
    with running(peer, empty_database, own_nats.url, tmp_path / "stderr") as process:
        for number in range(backlog, EVENTS):
            write(peer, empty_database, number, number + 1)
        numbers = asyncio.run(delivered(own_nats.url))
        process.terminate()
        assert process.wait(PATIENCE) == 0, (tmp_path / "stderr").read_text()
    assert sorted(numbers) == list(range(EVENTS)), (tmp_path / "stderr").read_text()
    assert sorted(asyncio.run(delivered(own_nats.url))) == list(range(EVENTS))


@pytest.mark.parametrize("peer", EVERYBODY, ids=lambda peer: peer.name)
def test_a_peer_relieved_of_its_burden_takes_events_all_the_same(peer, empty_database):
    skip_unless_here(peer)
    peer.prepare(empty_database)
    peer.unburden(empty_database)
    write(peer, empty_database, 0, 10)


def test_without_node_a_peer_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="nodejs and npm"):
        NodeHome("nobody", "nobody@1.0.0").install()


class running:  # noqa: N801 - reads as what it does
    """A peer's process, ready; killed at the end of the block if it still runs."""

    def __init__(self, peer: Peer, dsn: str, url: str, stderr: Path) -> None:
        self._stderr = stderr.open("wb")
        self._process = subprocess.Popen(
            peer.command(dsn, url, "PEER"),
            env={**os.environ, **peer.environment()},
            stdout=subprocess.PIPE,
            stderr=self._stderr,
        )

    def __enter__(self) -> "subprocess.Popen[bytes]":
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != READY.encode():
            self.__exit__()
            pytest.fail(Path(self._stderr.name).read_text())
        return self._process

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._stderr.close()


def skip_unless_here(peer: Peer) -> None:
    home = getattr(peer, "home", None)
    if home is not None and not home.installed:
        pytest.skip(f"{peer.name} is not installed: install() fetches it, which a test does not")


def write(peer: Peer, dsn: str, first: int, end: int) -> None:
    rows = f"""(select 'k' || number % 10, {payload("number")}
                  from generate_series({first}, {end - 1}) as number)"""
    with psycopg.connect(dsn) as connection:
        connection.execute(peer.events_from(rows).encode())


async def make_stream(url: str) -> None:
    async with await nats.connect(url) as client:
        await client.jetstream().add_stream(
            name="PEER", subjects=["orders.>"], storage="file", allow_batched=True
        )


async def delivered(url: str) -> list[int]:
    """Return the numbers in the stream once there are as many as events, or patience ends."""
    deadline = time.monotonic() + PATIENCE
    async with await nats.connect(url) as client:
        bus = client.jetstream()
        while True:
            state = (await bus.stream_info("PEER")).state
            if state.messages >= EVENTS or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.01)
        numbers = []
        for sequence in range(1, state.last_seq + 1):
            try:
                message = await bus.get_msg("PEER", sequence)
            except NotFoundError:
                continue
            numbers.append(number_of(message.data or b""))
        return numbers
