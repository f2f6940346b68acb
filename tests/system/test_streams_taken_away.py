"""A stream that is taken away under load, and given back: deleted, sealed, or forbidden.

What was acknowledged goes with a deleted stream, for its owner wanted that. Everything else comes
into the one that is made next, once and in order, and no event is to blame.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nats
import pytest

from relay import devstack
from relay.audit.oracle import StreamMessage, compare
from relay.audit.stream import read_stream
from tests.soak.broker import CONFIG, SHAPE, Broker
from tests.system.harness import STREAM, Load, RelayProcess, connected, delivered, until
from tests.system.outages import RECOVERED, SittingOut, unharmed

pytestmark = pytest.mark.timeout(120)

UNANSWERED = 5.0 + 2.0
"""Seconds: what is in flight when its stream goes is never answered. The relay waits for that as
long as for any answer, and then pauses, for JetStream itself is well."""

NAMED = 5.0
"""Seconds within which the log has to say what is wrong."""

LEFT_OF_IT = f"jetstream/$G/streams/.{STREAM}"
"""Where nats-server puts a stream that it has deleted, until all its files are removed."""

GONE = f"stream {STREAM} is gone"
FLOWED = 200
WAITING = 1000
"""Events that wait for a stream before it is given back: half a second's or so."""


class Owner:
    """Who owns the stream, and may do anything to it."""

    def __init__(self, server: devstack.NatsServer) -> None:
        self.url = server.url
        self._server = server

    def make(self, *, batched: bool = True) -> None:
        self.stream = Broker(self._server)
        if not batched:
            self.stream.change(allow_batched=False)

    def seal(self) -> None:
        self._ask("UPDATE", SHAPE | {"sealed": True})

    def delete(self) -> None:
        """Delete it, and wait for its folder to go.

        Until then, one more stream of this name gets old messages back once it is deleted as well
        (nats-server #8474).
        """
        self._ask("DELETE")
        until(lambda: not (self._server.store / LEFT_OF_IT).exists(), 20)

    def stored(self) -> int:
        """The stream's last sequence."""
        return self.stream.held()[1]

    def read(self) -> list[StreamMessage]:
        return asyncio.run(read_stream(self.url, STREAM))

    def configure(self, config: str) -> None:
        """Have the server take another configuration while it runs."""
        self._server.log_path.with_name("server.conf").write_text(config, encoding="utf-8")
        os.kill(self._server.pid, signal.SIGHUP)

    def _ask(self, verb: str, config: dict[str, Any] | None = None) -> None:
        async def ask() -> None:
            client = await nats.connect(self.url)
            try:
                body = json.dumps(config).encode() if config else b""
                answer = await client.request(f"$JS.API.STREAM.{verb}.{STREAM}", body, timeout=5)
                assert "error" not in json.loads(answer.data), answer.data
            finally:
                await client.close()

        asyncio.run(ask())


@pytest.fixture
def dsn(one_dsn: str) -> str:
    """One major version of Postgres will do: nothing here depends on which."""
    return one_dsn


@pytest.fixture
def owner() -> Iterator[Owner]:
    with devstack.nats_server(CONFIG) as server:
        yield Owner(server)


@pytest.fixture
def start(dsn: str, owner: Owner, tmp_path: Path) -> Iterator[Any]:
    """Start a relay that may not make the stream itself."""
    started = []

    def start() -> RelayProcess:
        who = {"nats_user": "relay", "nats_password": "relay", "stream_create": "false"}
        started.append(RelayProcess(dsn, owner.url, tmp_path / "relay.log", **who))
        return started[0]

    yield start
    for relay in started:
        relay.end()


def settle_all(dsn: str, load: Load) -> None:
    """End the load, and wait until all of it is delivered."""
    load.stop()
    until(lambda: delivered(dsn) == len(load.committed), 20)


def waiting(dsn: str, load: Load) -> int:
    """How many events are committed and not delivered."""
    return len(load.committed) - delivered(dsn)


def stores(owner: Owner) -> float:
    """Wait until the stream, which may just have been made, stores one more; s."""
    before, began = owner.stored(), time.monotonic()
    until(lambda: owner.stored() > before, 20)
    return time.monotonic() - began


def snapshot(dsn: str) -> str:
    with connected(dsn) as look:
        row = look.execute("select pg_current_snapshot()::text").fetchone()
    assert row is not None
    return row[0]


def committed_since(dsn: str, taken: str) -> set[str]:
    """The events that committed after a snapshot was taken."""
    with connected(dsn) as look:
        rows = look.execute(
            "select event_id::text from relay.outbox"
            " where not pg_visible_in_snapshot(xid, %s::pg_snapshot)",
            (taken,),
        ).fetchall()
    return {event_id for (event_id,) in rows}


def report(seconds: float) -> None:
    print(f"flows {seconds:.2f} s after it may")  # noqa: T201 - a figure
    assert seconds < UNANSWERED + RECOVERED


@pytest.mark.slow
def test_what_commits_while_the_stream_is_missing_comes_into_the_one_that_is_made_next(
    dsn: str, owner: Owner, start: Any
) -> None:
    owner.make()
    relay = start()
    with Load(dsn) as before:
        until(lambda: delivered(dsn) > FLOWED, 20)
        settle_all(dsn, before)
    found = compare(before.committed.values(), owner.read())
    assert found.is_clean, found

    outage = SittingOut(relay)
    owner.delete()
    with Load(dsn) as load:
        assert outage.heard(GONE, 10) < NAMED
        outage.for_long()
        unharmed(dsn)
        assert delivered(dsn) == len(before.committed)
        owner.make()
        report(stores(owner))
        load.stop()
    until(lambda: delivered(dsn) == len(before.committed) + len(load.committed), 20)
    found = compare(load.committed.values(), owner.read())
    assert found.is_clean, found
    unharmed(dsn)
    assert relay.terminate() == 0


@pytest.mark.slow
@pytest.mark.parametrize("path", ["fast ingest", "windowed"])
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "after a while"])
def test_what_commits_after_a_stream_was_deleted_under_load_comes_once_and_in_order(
    dsn: str, owner: Owner, start: Any, path: str, *, at_once: bool
) -> None:
    batched = path == "fast ingest"
    owner.make(batched=batched)
    relay = start()
    with Load(dsn) as load:
        until(lambda: delivered(dsn) > FLOWED, 20)
        assert f"publishing by {path}" in relay.log.read_text()
        for _ in range(3):
            owner.delete()
            deleted = snapshot(dsn)
            if not at_once:
                until(lambda: waiting(dsn, load) > WAITING, 20)
                unharmed(dsn)
            owner.make(batched=batched)
            report(stores(owner))
        until(lambda: len(committed_since(dsn, deleted)) > FLOWED, 20)
        settle_all(dsn, load)
    found = compare(load.committed.values(), owner.read())
    since = committed_since(dsn, deleted)
    assert replace(found, lost=()).is_clean, found
    assert since.isdisjoint(found.lost), found
    unharmed(dsn)
    assert relay.process.poll() is None
    assert relay.terminate() == 0


@pytest.mark.slow
def test_streams_sealed_read_and_deleted_under_load_hold_every_event_between_them(
    dsn: str, owner: Owner, start: Any
) -> None:
    """A sealed stream takes nothing more: so what is read is all that went with it."""
    owner.make()
    relay = start()
    streams = []
    with Load(dsn) as load:
        until(lambda: delivered(dsn) > FLOWED, 20)
        for _ in range(4):
            owner.seal()
            until(lambda: waiting(dsn, load) > WAITING, 20)
            streams.append(owner.read())
            owner.delete()
            owner.make()
            report(stores(owner))
        settle_all(dsn, load)
    streams.append(owner.read())
    found = compare(load.committed.values(), [message for each in streams for message in each])
    # An event whose answer the seal swallowed may be in two streams, but in none of them twice.
    assert replace(found, duplicates=()).is_clean, found
    for each in streams:
        assert each
        assert len({message.event_id for message in each}) == len(each)
    unharmed(dsn)
    assert relay.terminate() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            CONFIG.replace("permissions: { }", 'permissions: { publish: { deny: ["orders.>"] } }'),
            'Permissions Violation for Publish to \\"orders.placed\\"',
        ),
        (CONFIG.replace("password: relay", "password: changed"), "Authorization Violation"),
    ],
    ids=["publishing", "login"],
)
def test_a_right_that_is_revoked_is_named_and_once_it_is_given_back_everything_comes(
    dsn: str, owner: Owner, start: Any, config: str, says: str
) -> None:
    assert config != CONFIG
    owner.make()
    relay = start()
    with Load(dsn) as load:
        until(lambda: delivered(dsn) > FLOWED, 20)
        outage = SittingOut(relay)
        owner.configure(config)
        seconds = outage.heard(says, 10)
        print(f"named after {seconds:.2f} s")  # noqa: T201 - a figure
        assert seconds < NAMED
        outage.for_long()
        for _ in range(2):
            unharmed(dsn)
            owner.configure(CONFIG)
            report(stores(owner))
            owner.configure(config)
            until(lambda: waiting(dsn, load) > WAITING, 20)
        owner.configure(CONFIG)
        settle_all(dsn, load)
    found = compare(load.committed.values(), owner.read())
    assert found.is_clean, found
    unharmed(dsn)
    assert relay.terminate() == 0
