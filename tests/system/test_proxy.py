"""The proxy does to bytes what its faults are called."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.system.harness import until
from tests.system.proxy import Proxy


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
        except OSError:
            pass


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Server(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Proxy("127.0.0.1", server.server_address[1]) as proxy:
            yield proxy
        server.shutdown()


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with connect(proxy) as client:
        assert ask(client, b"hello") == b"hello"
        yield client


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def ask(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return client.recv(65536)


def is_refused(proxy: Proxy) -> bool:
    try:
        with connect(proxy) as newcomer:
            return not ask(newcomer, b"?")
    except ConnectionError:
        return True


def is_silent(client: socket.socket) -> bool:
    client.settimeout(0.2)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(5)
    return False


def test_what_is_frozen_comes_out_when_it_is_thawed(proxy: Proxy, client: socket.socket) -> None:
    proxy.freeze()
    client.sendall(b"held")
    assert is_silent(client)
    with connect(proxy) as newcomer:
        newcomer.sendall(b"as well")
        assert is_silent(newcomer)
        proxy.thaw()
        assert newcomer.recv(100) == b"as well"
    assert client.recv(100) == b"held"


def test_a_freeze_holds_no_more_than_the_kernel_does(proxy: Proxy, client: socket.socket) -> None:
    proxy.freeze("to server")
    client.settimeout(0.5)
    with pytest.raises(TimeoutError):
        client.sendall(b"x" * (64 << 20))


def test_what_is_dropped_never_comes(proxy: Proxy, client: socket.socket) -> None:
    proxy.drop("to client")
    client.sendall(b"gone")
    until(lambda: proxy.counts["bytes swallowed"] == 4, 5)
    proxy.heal()
    assert ask(client, b"back") == b"back"


def test_delay_delays_and_keeps_the_order(proxy: Proxy, client: socket.socket) -> None:
    proxy.delay(0.1, 0.05, "to server")
    began = time.monotonic()
    assert ask(client, b"1") == b"1"
    assert time.monotonic() - began >= 0.1


def test_a_reset_ends_every_connection_at_once(proxy: Proxy, client: socket.socket) -> None:
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_cut_lets_so_many_bytes_pass(proxy: Proxy, client: socket.socket) -> None:
    proxy.cut_after(3, "to client")
    client.sendall(b"12345")
    assert client.recv(100) == b"123"
    with pytest.raises(ConnectionResetError):
        client.recv(100)
    with connect(proxy) as newcomer:
        assert ask(newcomer, b"12345") == b"12345"


def test_a_half_close_ends_one_direction(proxy: Proxy, client: socket.socket) -> None:
    proxy.half_close("to client")
    assert client.recv(1) == b""
    client.sendall(b"still heard")


def test_who_is_refused_is_reset_until_it_heals(proxy: Proxy, client: socket.socket) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert is_refused(proxy)
    proxy.heal()
    with connect(proxy) as newcomer:
        assert ask(newcomer, b"!") == b"!"
