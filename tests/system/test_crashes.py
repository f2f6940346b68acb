"""Kill the relay, restart its servers, under load: nothing lost, no second copy, order kept."""

import asyncio
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay import devstack
from relay.postgres import migrations
from tests.system.harness import Load, RelayProcess, connected, delivered, until, verdict

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(280), pytest.mark.slow]

KILLS = 50
RESTARTS = 10


@pytest.fixture
def own_postgres(postgres_server: devstack.Postgres) -> Iterator[devstack.Postgres]:
    """A cluster of the same major version that the test may kill; committing durably."""
    with devstack.postgres(postgres_server.installation, settings={"fsync": "on"}) as server:
        asyncio.run(migrations.migrate(server.dsn, "relay"))
        yield server


def leader(dsn: str) -> int:
    """The process that began the present term."""
    with connected(dsn) as look:
        row = look.execute("select holder from relay.cursor").fetchone()
    assert row is not None
    return int(row[0].split(":")[1]) if row[0] else 0


async def test_fifty_kills_of_the_relay_lose_repeat_and_reorder_nothing(
    one_dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    chance, pause = random.Random(50), threading.Event()
    relays: list[RelayProcess] = []

    def start() -> None:
        relays.append(RelayProcess(one_dsn, own_nats.url, tmp_path / "relay.log"))

    try:
        for _ in range(3):
            start()
        with Load(one_dsn) as load:
            for _ in range(KILLS):
                until(lambda: leader(one_dsn) in {r.process.pid for r in relays}, 20)
                pause.wait(chance.uniform(0, 0.3))
                leads = leader(one_dsn)
                killed = next(relay for relay in relays if relay.process.pid == leads)
                killed.kill()
                relays.remove(killed)
                start()
            load.stop()
            found = await verdict(load, own_nats.url)
        assert found.is_clean, found
        assert len(load.committed) > 1000
    finally:
        for relay in relays:
            relay.kill()


async def test_ten_restarts_of_postgres_lose_repeat_and_reorder_nothing(
    own_postgres: devstack.Postgres, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    with (
        RelayProcess(own_postgres.dsn, own_nats.url, tmp_path / "relay.log") as relay,
        Load(own_postgres.dsn) as load,
    ):
        for restart in range(RESTARTS):
            before = delivered(own_postgres.dsn)
            until(lambda before=before: delivered(own_postgres.dsn) > before, 20)
            if restart % 3 == 2:
                own_postgres.kill()
            else:
                own_postgres.stop("immediate" if restart % 3 else "fast")
            own_postgres.start()
        load.stop()
        found = await verdict(load, own_nats.url)
        assert found.is_clean, found
        assert relay.process.poll() is None
        assert relay.terminate() == 0


async def test_ten_restarts_of_the_nats_server_lose_repeat_and_reorder_nothing(
    outbox_dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    with (
        RelayProcess(outbox_dsn, own_nats.url, tmp_path / "relay.log") as relay,
        Load(outbox_dsn) as load,
    ):
        for restart in range(RESTARTS):
            before = delivered(outbox_dsn)
            until(lambda before=before: delivered(outbox_dsn) > before, 20)
            if restart % 2:
                own_nats.kill()
            else:
                own_nats.stop()
            own_nats.start()
        load.stop()
        found = await verdict(load, own_nats.url)
        assert found.is_clean, found
        assert relay.process.poll() is None
        assert relay.terminate() == 0
