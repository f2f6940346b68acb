"""Deadlines, places, turns and budgets: whoever asks for too much keeps nobody else out."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest

from relay.http import limits
from relay.http.access import METRICS, PAGES
from relay.http.feed import MOST_WATCHERS
from relay.http.limits import (
    MOST_CONNECTIONS,
    TURNS_A_SECOND,
    TURNS_AT_ONCE,
    Allowance,
    Budget,
    Turns,
)
from tests.http.asking import TOKEN, has_ended
from tests.http.site import site
from tests.http.test_parts import Clock

pytestmark = pytest.mark.timeout(60)


def test_turns_come_at_the_rate_and_some_are_saved_up() -> None:
    clock = Clock()
    turns = Turns(10.0, 3, clock)
    assert [turns.take() for _ in range(5)] == pytest.approx([0, 0, 0, 0.1, 0.2])
    clock.now += 0.25
    assert [turns.take() for _ in range(2)] == pytest.approx([0.05, 0.15])
    clock.now += 1_000.0
    assert [turns.take() for _ in range(4)] == pytest.approx([0, 0, 0, 0.1])


@pytest.mark.parametrize(("waiting", "longest"), [(1, 0.008), (50, 0.4), (100, 0.8)])
def test_nobody_waits_longer_for_a_turn_than_all_places_need(waiting: int, longest: float) -> None:
    turns = Turns(TURNS_A_SECOND, TURNS_AT_ONCE, Clock())
    for _ in range(TURNS_AT_ONCE):
        assert turns.take() == pytest.approx(0, abs=1e-9)
    assert [turns.take() for _ in range(waiting)][-1] == pytest.approx(longest)


def test_a_turn_that_is_given_back_is_somebody_else_s() -> None:
    """Else connections that are cut while they wait keep all others waiting, ever longer."""
    turns = Turns(10.0, 1, Clock())
    assert [turns.take() for _ in range(3)] == pytest.approx([0, 0.1, 0.2])
    turns.give_back()
    assert [turns.take() for _ in range(2)] == pytest.approx([0.2, 0.3])


def test_a_budget_is_spent_by_address_and_by_all_together() -> None:
    clock = Clock()
    budget = Budget(Allowance(1.0, 6), Allowance(0.5, 4), clock)
    assert [budget.spend("a") for _ in range(5)] == [True] * 4 + [False]
    assert [budget.spend("b") for _ in range(3)] == [True] * 2 + [False]
    clock.now += 1.0
    assert [budget.spend("a"), budget.spend("b"), budget.spend("c")] == [False, True, False]
    clock.now += 1.0
    assert [budget.spend("a"), budget.spend("b")] == [True, False]


def test_a_budget_of_many_addresses_takes_no_more_memory() -> None:
    budget = Budget(Allowance(1e9, 1e9), Allowance(1.0, 1), Clock())
    for number in range(5_000):
        assert budget.spend(str(number))
    assert len(budget._each) == 1_000


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A site without a database behind it, of which every deadline is a tenth."""
    monkeypatch.setattr(limits, "ASK_WITHIN", 1.0)
    monkeypatch.setattr(limits, "ANSWER_WITHIN", 2.0)
    with site() as found:
        yield found


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def asked(port: int, path: str, *, timeout: float = 5.0, **headers: str) -> bytes:
    """Ask once on a connection of its own; everything that is answered."""
    with closing(connected(port)) as one:
        one.settimeout(timeout)
        one.sendall(request(path, close=True, **headers))
        parts = []
        while part := one.recv(65_536):
            parts.append(part)
        return b"".join(parts)


def request(path: str, *, method: str = "GET", close: bool = False, **headers: str) -> bytes:
    more = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
    end = "Connection: close\r\n" if close else ""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{more}{end}\r\n".encode()


def answer(one: socket.socket) -> bytes:
    """Read one answer of a known length."""
    told = b""
    while b"\r\n\r\n" not in told:
        told += one.recv(4096)
        if not told:
            raise ConnectionError("closed")
    head, _, body = told.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += one.recv(4096)
    return head


HALVES = {
    "nothing": b"",
    "half a first request": b"GET /livez HTTP/1.1\r\nHost: lo",
    "half a second request": request("/livez") + b"GET /livez HT",
    "half a third request": request("/livez") * 2 + b"GET",
    "no body": request("/retry", method="POST", **{"Content-Length": "10"}),
    "half a body of what needs none": request("/livez", **{"Content-Length": "9"}) + b"1234",
}


@pytest.mark.parametrize("sent", HALVES.values(), ids=HALVES)
def test_what_is_not_whole_in_time_has_ended(port: int, sent: bytes) -> None:
    with closing(connected(port)) as one:
        one.sendall(sent)
        began = time.monotonic()
        assert has_ended(one, within=5.0)
        assert time.monotonic() - began > 0.5


@pytest.mark.parametrize("sent", HALVES.values(), ids=HALVES)
def test_whoever_holds_all_places_with_halves_keeps_no_probe_out(port: int, sent: bytes) -> None:
    held = [connected(port) for _ in range(MOST_CONNECTIONS + 20)]
    try:
        for one in held:
            with suppress(ConnectionError):  # it has had to make room already
                one.sendall(sent)
        for path in ("/livez", "/readyz", "/livez"):
            assert asked(port, path).startswith(b"HTTP/1.1 200"), path
    finally:
        for one in held:
            one.close()


def test_a_byte_at_a_time_is_a_half_request_as_well(port: int) -> None:
    began = time.monotonic()
    with closing(connected(port)) as one, suppress(ConnectionError):
        for byte in b"GET / HTTP/1.1\r\nHost: localhost" + b"x" * 200:
            one.sendall(bytes([byte]))
            time.sleep(0.05)
    assert time.monotonic() - began < 5, "it was never cut"


def clients(port: int, path: str, counts: list[int], seconds: float) -> None:
    """Ask without a pause, on a kept connection for each of ``counts``: the answers that came."""
    until, number = time.monotonic() + seconds, len(counts)

    def ask(place: int) -> None:
        # With more clients than places, some have to make room.
        with closing(connected(port)) as one, suppress(OSError):
            while time.monotonic() < until:
                one.sendall(request(path))
                assert answer(one).startswith(b"HTTP/1.1 200")
                counts[place] += 1

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert number >= MOST_CONNECTIONS or min(counts) > 0, "somebody was never answered"


@pytest.mark.parametrize(("path", "number"), [("/livez", 50), ("/readyz", 20), ("/livez", 110)])
def test_clients_without_a_pause_have_so_many_turns_and_no_more(
    port: int, path: str, number: int
) -> None:
    """Each is answered, and never refused; a probe beside them is soon answered, too."""
    counts, before_it = [0] * number, list[int]()

    def probe() -> None:
        for _ in range(5):
            time.sleep(0.2)
            began = sum(counts)
            assert asked(port, "/readyz").startswith(b"HTTP/1.1 200")
            before_it.append(sum(counts) - began)

    beside = threading.Thread(target=probe)
    beside.start()
    clients(port, path, counts, 2.0)
    beside.join()
    until_the_last_s_turn = 2.0 + MOST_CONNECTIONS / TURNS_A_SECOND + 0.1
    assert sum(counts) <= TURNS_AT_ONCE + TURNS_A_SECOND * until_the_last_s_turn
    assert len(before_it) == 5
    # Those that waited before it, and those that were answered and not counted yet.
    assert max(before_it) <= 2 * MOST_CONNECTIONS + 20


def test_parts_of_requests_without_a_pause_keep_no_probe_waiting(port: int) -> None:
    """A head that never ends, in very many parts: they are read at a bounded rate."""
    stop = threading.Event()

    def drip() -> None:
        while not stop.is_set():
            with closing(connected(port)) as one, suppress(OSError):
                one.sendall(b"GET / HTTP/1.1\r\n")
                while not stop.is_set():
                    one.sendall(b"a: b\r\n")

    dripping = [threading.Thread(target=drip) for _ in range(4)]
    for each in dripping:
        each.start()
    try:
        for _ in range(5):
            began = time.monotonic()
            assert asked(port, "/livez").startswith(b"HTTP/1.1 200")
            assert time.monotonic() - began < 5.0
    finally:
        stop.set()
        for each in dripping:
            each.join()


def test_an_answer_s_date_goes_on(port: int) -> None:
    def date() -> bytes:
        head = asked(port, "/livez").lower().split(b"\r\n\r\n")[0]
        return next(line for line in head.split(b"\r\n") if line.startswith(b"date: "))

    first, deadline = date(), time.monotonic() + 20
    while date() == first:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_pipelined_requests_take_a_turn_each(port: int) -> None:
    with closing(connected(port)) as one:
        began = time.monotonic()
        one.sendall(request("/livez") * (TURNS_AT_ONCE + 60))
        told = b""
        while told.count(b"HTTP/1.1 200") < TURNS_AT_ONCE + 60:
            told += one.recv(65_536)
        assert time.monotonic() - began > 50 / TURNS_A_SECOND


@pytest.mark.parametrize(
    ("path", "budget"), [("/", PAGES[1]), ("/metrics", METRICS[1]), ("/?x=1", PAGES[1])]
)
def test_what_is_dear_has_a_budget_then_429_and_the_connection_is_closed(
    port: int, path: str, budget: Allowance
) -> None:
    with closing(connected(port)) as one:
        head, count = b"HTTP/1.1 200", 0
        while head.startswith(b"HTTP/1.1 200"):
            one.sendall(request(path))
            head = answer(one)
            count += 1
        assert head.startswith(b"HTTP/1.1 429")
        assert b"retry-after: 1" in head
        assert has_ended(one, within=2.0)
    assert budget.at_once <= count - 1 <= budget.at_once + budget.rate * 5
    assert asked(port, "/readyz").startswith(b"HTTP/1.1 200")
    assert asked(port, "/livez").startswith(b"HTTP/1.1 200")


def test_a_page_s_budget_is_not_the_retry_s(port: int) -> None:
    while asked(port, "/").startswith(b"HTTP/1.1 200"):
        pass
    with closing(connected(port)) as one:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Length": "0"}
        one.sendall(request("/retry", method="POST", **headers))
        assert answer(one).startswith(b"HTTP/1.1 415")


def test_quiet_watchers_keep_no_newcomer_out(port: int) -> None:
    watchers = []
    for _ in range(MOST_WATCHERS + 5):
        one = connected(port)
        one.sendall(request("/events"))
        assert one.recv(12) == b"HTTP/1.1 200"
        watchers.append(one)
    assert all(has_ended(one, within=2.0) for one in watchers[:5])
    assert not any(has_ended(one, within=0.1) for one in watchers[5:])
    for one in watchers:
        one.close()


def test_an_answer_that_lasts_is_not_cut(port: int) -> None:
    with closing(connected(port)) as one:
        one.sendall(request("/events"))
        assert not has_ended(one, within=4.0)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_a_probe_is_only_read(port: int, method: str) -> None:
    with closing(connected(port)) as one:
        one.sendall(request("/readyz", method=method, close=True))
        head = answer(one)
        assert head.startswith(b"HTTP/1.1 405")
        allowed = head.partition(b"allow: ")[2].partition(b"\r\n")[0]
        assert sorted(allowed.split(b", ")) == [b"GET", b"HEAD"]


def test_the_place_that_is_given_up_is_of_the_most_crowded_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MOST_CONNECTIONS", 4)

    class Fake:
        def __init__(self, address: str, claim: int = 0) -> None:
            self.address, self.claim, self.cut = address, claim, False
            self.transport = self

        def abort(self) -> None:
            self.cut = True

    def left(*there: Any) -> list[bool]:
        places = limits.Places()
        for one in there:
            places.enter(one)
        return [one.cut for one in there]

    def busy(address: str) -> Fake:
        return Fake(address, 2)

    assert left(*map(Fake, "abbcd")) == [False, True, False, False, False]
    assert left(*map(Fake, "aaaaa")) == [True, False, False, False, False]
    assert left(busy("a"), Fake("a"), busy("a"), Fake("b"), Fake("c")) == [0, 1, 0, 0, 0]
    assert left(Fake("a", 1), Fake("b", 1), Fake("b", 1), busy("c"), Fake("d")) == [0, 1, 0, 0, 0]
    assert left(Fake("a", 1), Fake("a", 1), Fake("b"), busy("c"), Fake("d")) == [0, 0, 1, 0, 0]
    assert left(*map(busy, "abcd"), Fake("e")) == [False] * 4 + [True]
