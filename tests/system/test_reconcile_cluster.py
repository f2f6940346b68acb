"""Three servers that all come back with an older store, as after one power cut for all. R-LOSS."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.cluster import Cluster, nats_cluster
from tests.system.harness import STREAM, Load, Start, alone, delivered, until, verdict

pytestmark = [pytest.mark.timeout(280), pytest.mark.slow]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three nodes, each with a store of its own."""
    with nats_cluster() as made:
        yield made


def test_three_servers_with_older_stores_get_the_rest_again(
    one_dsn: str, cluster: Cluster, start: Start, tmp_path: Path
) -> None:
    nodes = cluster.nodes.values()
    cluster.make(STREAM, "orders.>")
    relay = start(one_dsn, cluster.urls, stream_create="false")
    with Load(one_dsn, producers=2, pause=0.01) as load:
        until(lambda: delivered(one_dsn) > 50, 60)
        for node in nodes:
            node.stop()
        for number, node in enumerate(nodes):
            shutil.copytree(node.store, tmp_path / str(number))
        for node in nodes:
            node.start()
        before = delivered(one_dsn)
        until(lambda: delivered(one_dsn) > before + 100, 90)
        for node in nodes:
            node.kill()
        for number, node in enumerate(nodes):
            shutil.rmtree(node.store)
            shutil.copytree(tmp_path / str(number), node.store)
            node.start()
        until(lambda: alone(one_dsn, "select count(*) from relay.repair") > 0, 90)
        load.stop()
        found = asyncio.run(verdict(load, cluster.url))
    assert found.is_clean, found
    assert relay.terminate() == 0
