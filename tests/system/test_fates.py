"""R-FATE, R-ORDER: one event's fault is one event's fate, and nothing of its key passes it."""

import secrets
import threading

import psycopg
import pytest

from relay import devstack
from relay.core.durations import format as written
from tests.system import streams
from tests.system.harness import STREAM, Start, alone, connected, emit, until

pytestmark = pytest.mark.timeout(120)

PARKED = "select count(*) from relay.parked"
DEAD = "select count(*) from relay.parked where dead_at is not null"
ANY_STREAM = {"stream": "", "stream_subjects": "", "stream_create": ""}
OTHERS_WITHIN = 5.0


def subjects(url: str, stream: str) -> list[str]:
    return [message.subject for message in streams.read(url, stream)]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["share row exclusive", "access exclusive"])
def test_while_the_parked_are_locked_nothing_passes_a_refused_event_of_its_key(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start, mode: str
) -> None:
    """Three times: a look at the backlog has to fall into the settlement that waits."""
    url = own_nats.url
    relay = start(one_dsn, url, max_retry_delay="1s")
    emit(one_dsn, "orders.first")
    until(lambda: streams.held(url, STREAM) == 1, 20)
    for turn in range(3):
        with psycopg.connect(one_dsn) as lock:
            lock.execute(f"lock table relay.parked in {mode} mode".encode())
            emit(one_dsn, "nowhere.a", f"K{turn}")
            emit(one_dsn, "orders.other", f"free {turn}")
            threading.Event().wait(0.6)
            emit(one_dsn, "orders.behind", f"K{turn}")
            threading.Event().wait(1.6)  # as long as a person's decision takes, and a look comes
        parked = 2 * (turn + 1)
        until(lambda parked=parked: alone(one_dsn, PARKED) == parked, 20)  # type: ignore[misc]
        assert "orders.behind" not in subjects(url, STREAM)
    until(lambda: subjects(url, STREAM).count("orders.other") == 3, 20)
    assert relay.process.poll() is None
    assert relay.terminate() == 0


@pytest.mark.parametrize("paths", [(True, True), (False, False), (True, False)], ids=str)
def test_a_full_stream_holds_up_none_that_was_not_met_yet(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start, paths: tuple[bool, bool]
) -> None:
    url = own_nats.url
    streams.make(url, "FULL", "full.>", max_msgs=1, discard="new", allow_batched=paths[0])
    streams.make(url, "FREE", "free.>", allow_batched=paths[1])
    relay = start(one_dsn, url, **ANY_STREAM)
    emit(one_dsn, "full.a", "f")
    until(lambda: streams.held(url, "FULL") == 1, 20)
    emit(one_dsn, "full.a", "f")
    until(lambda: "takes nothing now" in relay.log.read_text(), 20)
    emit(one_dsn, "free.a", "g")
    until(lambda: streams.held(url, "FREE") == 1, OTHERS_WITHIN)
    assert alone(one_dsn, DEAD) == 0
    streams.change(url, "FULL", max_msgs=-1)
    until(lambda: streams.held(url, "FULL") == 2, 20)
    assert relay.terminate() == 0


@pytest.mark.slow
def test_what_was_captured_once_is_held_over_a_restart_without_its_stream(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start
) -> None:
    url = own_nats.url
    streams.make(url, "ORDERS", "orders.>")
    streams.make(url, "OTHERS", "others.>")
    first = start(one_dsn, url, **ANY_STREAM, max_attempts="2", max_retry_delay="200ms")
    emit(one_dsn, "orders.first", "k")
    until(lambda: streams.held(url, "ORDERS") == 1, 20)
    until(lambda: alone(one_dsn, "select count(*) from relay.stream") == 2, 20)
    assert first.terminate() == 0
    streams.delete(url, "ORDERS")
    relay = start(one_dsn, url, **ANY_STREAM, max_attempts="2", max_retry_delay="200ms")
    ids = [emit(one_dsn, "orders.later", "k", number=number) for number in range(5)]
    emit(one_dsn, "others.free", "free")
    until(lambda: streams.held(url, "OTHERS") == 1, 20)
    until(lambda: alone(one_dsn, "select count(*) from relay.parked where held_by <> ''") > 0, 20)
    threading.Event().wait(2)  # ten tries, were it a refusal
    assert (alone(one_dsn, DEAD), alone(one_dsn, PARKED)) == (0, 5)
    assert "takes nothing now" in relay.log.read_text()
    streams.make(url, "ORDERS", "orders.>")
    until(lambda: streams.held(url, "ORDERS") == 5, 20)
    assert [message.event_id for message in streams.read(url, "ORDERS")] == ids
    assert relay.terminate() == 0


def test_streams_that_the_database_can_t_remember_as_they_are_stop_nothing(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start
) -> None:
    """The server takes any of these filters, and any first sequence."""
    url = own_nats.url
    streams.make(url, "NUL", "nul.\0.*")
    streams.make(url, "LONG", f"long.{secrets.token_hex(2000)}")
    streams.make(url, "LATE", "late.>", first_seq=(1 << 63) + 5)
    streams.make(url, "ORDERS", "orders.>")
    relay = start(one_dsn, url, **ANY_STREAM)
    for _ in range(2):
        for subject in ("orders.a", "late.a"):
            emit(one_dsn, subject, "k")
        until(lambda: alone(one_dsn, "select count(*) from relay.pending") == 0, 20)
    assert (streams.held(url, "ORDERS"), streams.held(url, "LATE")) == (2, 2)
    assert alone(one_dsn, "select count(*) from relay.checkpoint where stream = 'LATE'") > 0
    assert relay.terminate() == 0


@pytest.mark.parametrize("place", ["first", "amid", "last"])
def test_an_event_that_cuts_the_connection_is_found_and_the_others_flow(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start, place: str
) -> None:
    """Nobody can know of the server's max_control_line before."""
    config = own_nats.log_path.with_name("server.conf")
    config.write_text("max_control_line: 256\n", encoding="utf-8")
    own_nats.stop()
    own_nats.start()
    url = own_nats.url
    with psycopg.connect(one_dsn) as producer:
        names = [f"orders.n{number}" for number in range(40)]
        at = {"first": 0, "amid": 20, "last": 40}[place]
        names.insert(at, f"orders.{'x' * 230}")
        for number, name in enumerate(names):
            emit(producer, name, f"k{number % 5}")
    relay = start(one_dsn, url, max_attempts="2", max_retry_delay="200ms")
    until(lambda: streams.held(url, STREAM) == 40, 40)
    until(lambda: alone(one_dsn, DEAD) == 1, 20)
    until(lambda: alone(one_dsn, PARKED) == 1, 20)  # what was refused beside it is settled
    with connected(one_dsn) as look:
        dead = look.execute("select subject, last_error from relay.parked").fetchall()
    assert [subject for subject, _ in dead] == [names[at]]
    assert dead[0][1]
    assert sorted(subjects(url, STREAM)) == sorted(set(names) - {names[at]})
    emit(one_dsn, "orders.after")
    until(lambda: streams.held(url, STREAM) == 41, 20)
    assert relay.terminate() == 0


def test_what_waits_behind_a_parked_event_counts_for_the_lag_and_its_breaker(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start
) -> None:
    limit = 1.0
    relay = start(one_dsn, own_nats.url, circuit_breaker_lag=written(limit))
    emit(one_dsn, "nowhere.a", "K")
    for number in range(50):
        emit(one_dsn, "orders.behind", "K", number=number)
    lag = "select lag_seconds from relay.status"
    until(lambda: alone(one_dsn, PARKED) == 51, 20)
    until(lambda: alone(one_dsn, lag) > limit, 20)
    until(lambda: "lag breaker is open" in relay.log.read_text(), 20)
    assert streams.held(own_nats.url, STREAM) == 0
    streams.change(own_nats.url, STREAM, subjects=["orders.>", "nowhere.>"])
    until(lambda: streams.held(own_nats.url, STREAM) == 51, 40)
    until(lambda: "lag breaker is closed" in relay.log.read_text(), 20)
    until(lambda: alone(one_dsn, lag) == 0, 20)
    assert relay.terminate() == 0
