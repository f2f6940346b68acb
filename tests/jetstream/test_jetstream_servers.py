"""Which servers of a cluster are tried, and in which order; what is gone is forgotten."""

import json
from contextlib import ExitStack, asynccontextmanager

import anyio
import pytest

from relay import devstack
from relay.devstack.sandbox import free_port
from relay.jetstream import BusOptions
from relay.jetstream.servers import Servers

pytestmark = pytest.mark.anyio

GONE = [f"127.0.0.9:{port}" for port in range(4001, 4081)]
"""Addresses at which nobody is."""


@asynccontextmanager
async def connected(servers, *announced):
    """Connect, and let the server announce these addresses."""
    connection = await servers.connect()
    try:
        info = json.dumps({"connect_urls": announced})
        await connection.wire._ps.parse(f"INFO {info}\r\n".encode())
        yield connection
    finally:
        connection.drop("the test is over")
        await connection.dropped()


def tried(servers):
    return [url.removeprefix("nats://") for url, _ in servers.in_turn()]


async def test_what_the_newest_info_does_not_name_is_forgotten(nats_server):
    servers = Servers(BusOptions(urls=(nats_server.url,)))
    configured = nats_server.url.removeprefix("nats://")
    for address in GONE:  # a rolling restart after the other, each pod at a new address
        async with connected(servers, "127.0.0.9:4000"):
            pass
        async with connected(servers, address, configured):
            assert tried(servers) == [address, configured]
    async with connected(servers):
        assert tried(servers) == [configured]


async def test_a_configured_server_is_tried_soon_however_many_are_announced(nats_server):
    dead, alive = "127.0.0.1:1", nats_server.url.removeprefix("nats://")
    servers = Servers(BusOptions(urls=(dead, alive)))
    async with connected(servers, *GONE):
        order = tried(servers)
        assert len(order) == 64 + 2
        assert set(order) <= {dead, alive, *GONE}
        assert (order[1], order[3]) == (dead, alive)  # the one that is left comes last of the two
        assert order != tried(servers)  # by chance, or all relays would go to the same one


async def test_of_those_that_are_announced_the_one_that_was_left_comes_last(nats_server):
    named = f"localhost:{nats_server.port}"
    servers = Servers(BusOptions(urls=(named,)))
    address = f"127.0.0.1:{nats_server.port}"
    async with connected(servers, address):
        pass
    async with connected(servers, address, *GONE[:5]) as connection:
        assert connection.url == f"nats://{address}"
        order = tried(servers)
        assert (order[1], order[-1]) == (named, address)


NODE = 'cluster {{ name: C, listen: "127.0.0.1:{port}", routes: ["nats://127.0.0.1:{first}"] }}'


async def test_on_a_lasting_connection_servers_come_and_go():
    ports = [free_port() for _ in range(3)]
    with ExitStack() as nodes:
        first, second, third = (
            nodes.enter_context(
                devstack.nats_server(
                    f"server_name: n{port}\n" + NODE.format(port=port, first=ports[0])
                )
            )
            for port in ports
        )
        servers = Servers(BusOptions(urls=(first.url,)))

        async def until_known(*nodes):
            with anyio.fail_after(20):
                while {url for url, _ in servers.in_turn()} != {node.url for node in nodes}:
                    await anyio.sleep(0.02)

        connection = await servers.connect()
        await until_known(first, second, third)
        third.kill()
        await until_known(first, second)
        third.start()
        await until_known(first, second, third)
        assert connection.lost is None
        connection.drop("the test is over")
        await connection.dropped()
