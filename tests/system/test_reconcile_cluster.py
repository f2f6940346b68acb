"""Three servers that all come back with an older store, as after one power cut for all. R-LOSS."""

import asyncio
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import nats
import pytest

from relay import devstack
from tests.system import streams
from tests.system.harness import STREAM, Load, Start, alone, delivered, until, verdict

pytestmark = [pytest.mark.timeout(280), pytest.mark.slow]

NODE = """
server_name: {name}
cluster {{ name: C, listen: "127.0.0.1:{port}", routes: [{routes}] }}
"""


@pytest.fixture
def cluster() -> Iterator[list[devstack.NatsServer]]:
    """Three nodes, each with a store of its own."""
    with ExitStack() as stack:
        ports = []
        for _ in range(3):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            ports.append(listener.getsockname()[1])
        stack.pop_all().close()
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
        nodes = [
            NODE.format(name=f"n{number}", port=port, routes=routes)
            for number, port in enumerate(ports)
        ]
        yield [stack.enter_context(devstack.nats_server(node)) for node in nodes]


def stream_is_led(url: str) -> bool:
    async def led() -> bool:
        async with await nats.connect(url, connect_timeout=1) as client:
            info = await client.jetstream(timeout=1).stream_info(STREAM)
            return bool(info.cluster and info.cluster.leader)

    try:
        return asyncio.run(led())
    except Exception:  # noqa: BLE001 - not yet, whatever the reason
        return False


def made(url: str) -> bool:
    try:
        streams.make(url, STREAM, "orders.>", num_replicas=3)
    except Exception:  # noqa: BLE001 - there is no meta leader yet
        return stream_is_led(url)
    return True


def test_three_servers_with_older_stores_get_the_rest_again(
    one_dsn: str, cluster: list[devstack.NatsServer], start: Start, tmp_path: Path
) -> None:
    urls = ",".join(node.url for node in cluster)
    until(lambda: made(cluster[0].url), 60)
    relay = start(one_dsn, urls, stream_create="false")
    with Load(one_dsn, producers=2, pause=0.01) as load:
        until(lambda: delivered(one_dsn) > 50, 60)
        for node in cluster:
            node.stop()
        for number, node in enumerate(cluster):
            shutil.copytree(node.store, tmp_path / str(number))
        for node in cluster:
            node.start()
        before = delivered(one_dsn)
        until(lambda: delivered(one_dsn) > before + 100, 90)
        for node in cluster:
            node.kill()
        for number, node in enumerate(cluster):
            shutil.rmtree(node.store)
            shutil.copytree(tmp_path / str(number), node.store)
            node.start()
        until(lambda: alone(one_dsn, "select count(*) from relay.repair") > 0, 90)
        load.stop()
        found = asyncio.run(verdict(load, cluster[0].url))
    assert found.is_clean, found
    assert relay.terminate() == 0
