"""The parts by themselves: who is let in, who may watch, names, sockets, the page's file."""

import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import anyio
import pytest

from relay.errors import SchemaError
from relay.facts import BusConnected, OutageBegan, StandingBy, TermBegan
from relay.http.access import FORGIVEN_EVERY, MOST_FAILURES, Token, is_private, page
from relay.http.feed import MOST_WATCHERS, Feed
from relay.http.health import Health
from relay.http.service import Manager, Service, listen
from relay.settings import Settings
from relay.settings.kinds import Address
from relay.state import Metrics, RelayState
from tests.http.asking import TOKEN


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def status(token: Token, given: str | None, address: str = "1.2.3.4") -> int:
    refusal = token.refuse(address, given)
    return 200 if refusal is None else refusal.status_code


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN} ", 200),
        (None, 401),
        (TOKEN, 401),
        ("Bearer", 401),
        (f"Basic {TOKEN}", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        ("Bearer é", 401),
    ],
)
def test_only_the_token_lets_in(given: str | None, code: int) -> None:
    assert status(Token(TOKEN), given) == code


def test_without_a_token_nobody_is_let_in() -> None:
    for given in (None, "Bearer ", "Bearer None"):
        assert status(Token(None), given) == 403


def test_the_token_s_file_is_looked_into_at_each_request(tmp_path: Path) -> None:
    file = tmp_path / "token"
    token = Token(TOKEN, file=file)
    assert status(token, f"Bearer {TOKEN}") == 200
    newer = TOKEN[::-1]
    file.write_text(f"{newer}\n")
    assert status(token, f"Bearer {TOKEN}") == 401
    assert status(token, f"Bearer {newer}") == 200
    for half_written in ("", "short", "\n" * 20):
        file.write_text(half_written)
        assert status(token, f"Bearer {half_written.strip()}") == 401
        assert status(token, f"Bearer {newer}") == 200


def test_who_guesses_has_to_wait_and_others_need_not() -> None:
    clock = Clock()
    token = Token(TOKEN, clock)
    right, wrong = f"Bearer {TOKEN}", "Bearer wrong"
    told = [status(token, wrong) for _ in range(MOST_FAILURES + 2)]
    assert told == [401] * MOST_FAILURES + [429] * 2
    assert status(token, right) == 200, "whatever came before from this address"
    assert status(token, None) == 429
    assert status(token, right, "5.6.7.8") == 200
    clock.now += FORGIVEN_EVERY
    assert [status(token, wrong), status(token, wrong)] == [401, 429]
    clock.now += FORGIVEN_EVERY + 1
    assert status(token, right) == 200
    assert status(token, wrong) == 401, "one is forgiven by time, and none by the right token"
    assert status(token, wrong) == 429
    clock.now += FORGIVEN_EVERY * MOST_FAILURES
    assert [status(token, wrong) for _ in range(MOST_FAILURES)] == [401] * MOST_FAILURES


@pytest.mark.parametrize("every", [1.0, 0.1, 60.0])
def test_who_guesses_from_a_proxy_s_address_shuts_nobody_out(every: float) -> None:
    clock = Clock()
    token = Token(TOKEN, clock)
    for _ in range(100):
        clock.now += every
        assert status(token, "Bearer wrong") in {401, 429}
        assert status(token, f"Bearer {TOKEN}") == 200


def test_a_request_without_a_token_is_no_guess_and_guessers_take_no_memory() -> None:
    token = Token(TOKEN, Clock())
    assert {status(token, None) for _ in range(100)} == {401}
    for number in range(2_000):
        status(token, "Bearer x", f"10.0.{number // 256}.{number % 256}")
    assert len(token._wrong._each) == 1_000


@pytest.mark.anyio
async def test_who_watches_gets_the_newest() -> None:
    feed = Feed()
    with feed.join("1.2.3.4") as slow:
        for number in range(1000):
            feed.send(b"%d" % number)
        assert await slow.next() == b"999"
        with anyio.move_on_after(0.05) as nothing:
            await slow.next()
        assert nothing.cancelled_caught


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("there", "newcomer", "leaving"),
    [
        ("a" * 16, "b", 0),
        ("a" * 16, "a", 0),
        ("b" + "a" * 15, "c", 1),
        ("bcda" * 2 + "a" * 8, "e", 3),
        ("abcdefghijklmnop", "q", 0),
    ],
)
async def test_a_newcomer_takes_the_oldest_place_of_the_most_crowded_address(
    there: str, newcomer: str, leaving: int
) -> None:
    feed = Feed()
    places = [ExitStack() for _ in (*there, newcomer)]
    watchers = [
        place.enter_context(feed.join(address))
        for place, address in zip(places, there, strict=False)
    ]
    assert len(watchers) == MOST_WATCHERS
    watchers.append(places[-1].enter_context(feed.join(newcomer)))
    feed.send(b"news")
    with anyio.fail_after(1):
        messages = [await each.next() for each in watchers]
    assert messages == [None if number == leaving else b"news" for number in range(len(watchers))]
    places[leaving].close()
    assert len(feed._watchers) == MOST_WATCHERS
    for place in places:
        place.close()
    assert not feed.watched


@pytest.mark.anyio
async def test_it_is_known_whether_anybody_watches() -> None:
    feed = Feed()
    for _ in range(2):
        assert not feed.watched
        with anyio.move_on_after(0.02) as nobody:
            await feed.until_watched()
        assert nobody.cancelled_caught
        watcher = feed.join("1.2.3.4")
        with watcher, anyio.fail_after(1):
            await feed.until_watched()
            assert feed.watched


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("127.0.0.1:8080", True),
        ("10.1.2.3", True),
        ("[::1]:8080", True),
        ("localhost:8080", True),
        ("LOCALHOST.", True),
        ("relay:8080", True),
        ("relay.shop.svc:8080", True),
        ("relay.Internal", True),
        ("named.example:8080", True),
        ("evil.example:8080", False),
        ("127.0.0.1.evil.example", False),
        ("named.example.evil.example", False),
        ("", False),
        ("[::1", True),
        ("relay.svc.evil.com", False),
        ("a b", False),
    ],
)
def test_the_page_answers_to_names_that_no_stranger_can_have(host: str, ours: bool) -> None:
    assert is_private(host, "named.example") is ours


@pytest.fixture
def manager_socket(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """The service manager's end: a path, or, on Linux, an abstract name."""
    name = f"\0relay-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind(name)
        ours.setblocking(False)
        yield ours


def received(ours: socket.socket) -> list[str]:
    told: list[str] = []
    while True:
        try:
            told += ours.recv(4096).decode().split("\n")
        except BlockingIOError:
            return told


def named(ours: socket.socket) -> str:
    name = ours.getsockname()
    return f"@{name[1:].decode()}" if isinstance(name, bytes) else str(name)


@pytest.mark.parametrize("manager_socket", ["path", "abstract"], indirect=True)
def test_the_service_manager_is_told_what_changes_and_that_we_live(
    manager_socket: socket.socket,
) -> None:
    environ = {"NOTIFY_SOCKET": named(manager_socket), "WATCHDOG_USEC": "3000000"}
    manager, health = Manager(environ), Health(RelayState())
    assert manager.watchdog_every == 1.5
    manager.report(health)
    assert received(manager_socket) == ["WATCHDOG=1", "STATUS=Starting"]
    health.state.record(TermBegan("me", 1))
    health.state.record(BusConnected())
    manager.report(health)
    assert received(manager_socket) == ["WATCHDOG=1", "READY=1", "STATUS=Healthy"]
    manager.report(health)
    assert received(manager_socket) == ["WATCHDOG=1"]
    health.state.record(OutageBegan("nats", "host:4222 refused"))
    manager.report(health)
    assert received(manager_socket) == ["WATCHDOG=1", "STATUS=Outage: NATS is away"]
    manager.stopping()
    assert received(manager_socket) == ["STOPPING=1", "STATUS=Stopping"]


@pytest.mark.parametrize("manager_socket", ["path"], indirect=True)
def test_a_standby_is_ready_and_a_watchdog_of_another_process_is_not_ours(
    manager_socket: socket.socket,
) -> None:
    manager = Manager(
        {"NOTIFY_SOCKET": named(manager_socket), "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    )
    assert manager.watchdog_every is None
    health = Health(RelayState())
    health.state.record(StandingBy("me"))
    manager.report(health)
    assert received(manager_socket) == ["READY=1", "STATUS=Standing by"]


@pytest.mark.parametrize("address", ["", "/not/there", "@nobody-listens"])
def test_a_service_manager_that_is_not_there_is_no_reason_to_fail(address: str) -> None:
    manager = Manager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "junk"})
    manager.report(Health(RelayState()))
    manager.stopping()
    assert manager.watchdog_every is None


def test_a_name_is_listened_on_at_all_its_addresses_by_one_port() -> None:
    sockets = listen(Address("localhost", 0))
    try:
        assert len({each.getsockname()[1] for each in sockets}) == 1
        assert "127.0.0.1" in {each.getsockname()[0] for each in sockets}
        with pytest.raises(OSError, match="in use") as taken:
            listen(Address("127.0.0.1", sockets[0].getsockname()[1]))
        assert taken.value.errno == errno.EADDRINUSE
    finally:
        for each in sockets:
            each.close()


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(OSError) as caught:
        listen(Address("192.0.2.1", 0))
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_the_page_is_one_document_that_names_no_other_place() -> None:
    html, _ = page()
    assert "<!-- s" not in html
    found = set(re.findall(r"https?://[^\s\"'`)]+", html))
    assert found == {"http://www.w3.org/2000/svg"}, "names of a language, not places"
    assert not re.search(r"(src|href)=\"(?!data:)", html)
    assert not re.search(r"\son\w+=|\sstyle=|innerHTML|outerHTML|document\.write|eval\(", html)


def test_the_policy_lets_nothing_in_but_the_page_s_own_parts() -> None:
    _, policy = page()
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in policy
    assert all(rules[name].startswith("'sha256-") for name in ("script-src", "style-src"))
    assert rules["connect-src"] == "'self'"


class Idle:
    """A relay of which nothing is to be told."""

    paths: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        self.state = RelayState()

    def metrics(self) -> Metrics:
        return self.state.metrics()


@pytest.mark.anyio
async def test_what_fails_beside_the_relay_is_logged_and_the_relay_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise KeyError("a bug of the page")

    monkeypatch.setattr("relay.http.routes.serve_page", broken)
    service = Service(Settings(http="127.0.0.1:0"))
    with anyio.fail_after(20):
        async with service.attend(Idle()):
            while "delivery goes on without it" not in caplog.text:
                await anyio.sleep(0.01)
    assert "a bug of the page" in caplog.text


@pytest.mark.anyio
async def test_an_error_of_the_relay_comes_through_as_itself() -> None:
    service = Service(Settings(http="127.0.0.1:0"))
    with pytest.raises(SchemaError, match="no schema"), anyio.fail_after(20):
        async with service.attend(Idle()):
            raise SchemaError("no schema")
