"""R-TERM: who may speak, when the leader stands still, waits, vanishes, or is told to stop."""

import asyncio
import select
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from relay import devstack
from relay.postgres import migrations
from relay.postgres.sqlfiles import LEASE_CLASS
from tests.http.asking import port_of
from tests.system import streams
from tests.system.flow import Flow
from tests.system.harness import STREAM, RelayProcess, Start, alone, emit, leader, until
from tests.system.proxy import Proxy
from tests.system.vanishing import Host, vanishing_host_or_skip

pytestmark = pytest.mark.timeout(120)

LIFETIME = 2.0
TAKEN_OVER = 20.0
"""Seconds; a leader that is stopped keeps the lease for ever, if nobody ends its session."""

VANISHED_TAKEN_OVER = 7.0
"""Seconds; the server's keepalives end the session of a host that is away after 8 s at least."""

LIVELY = {"lease_lifetime": f"{LIFETIME:g}s"}
STOPS_WITHIN = 10.0


def leads(dsn: str, relay: RelayProcess) -> bool:
    return leader(dsn)[1] == relay.process.pid


def pair(start: Start, dsn: str, url: str, **first: str) -> tuple[RelayProcess, RelayProcess]:
    """Start one that leads and one that stands by."""
    one = start(dsn, url, **LIVELY, **first)
    until(lambda: leads(dsn, one), 20)
    other = start(dsn, url, **LIVELY)
    until(lambda: "standing by" in other.log.read_text(), 20)
    return one, other


def order(url: str) -> list[str]:
    return [message.event_id for message in streams.read(url, STREAM)]


@pytest.mark.slow
def test_a_leader_that_stands_still_is_replaced_and_sends_nothing_on_waking(
    outbox_dsn: str, own_nats: devstack.NatsServer, start: Start
) -> None:
    one, other = pair(start, outbox_dsn, own_nats.url)
    with Flow(outbox_dsn, own_nats.url) as flow:
        flow.published_after(time.time(), 20)
        one.process.send_signal(signal.SIGSTOP)
        flow.published_after(time.time(), TAKEN_OVER)
        until(lambda: alone(outbox_dsn, "select count(*) from relay.pending") < 100, 20)
        threading.Event().wait(1)  # what the next leader repeats is through
        woken = time.time()
        one.process.send_signal(signal.SIGCONT)
        until(lambda: "term ended" in one.log.read_text(), 20)
        threading.Event().wait(0.5)
        assert flow.repeated_after(woken) == []
    assert leads(outbox_dsn, other)
    assert [one.terminate(), other.terminate()] == [0, 0]


@pytest.mark.slow
def test_one_frozen_before_it_sends_says_nothing_after_a_takeover_and_the_duplicate_window(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start
) -> None:
    """With a page in hand, which no id keeps out of the stream any more."""
    url = own_nats.url
    streams.make(url, STREAM, "orders.>", duplicate_window=100_000_000)
    one, other = pair(start, one_dsn, url, failpoints="before-send=stop:2")
    ids = [emit(one_dsn, "orders.placed", "k")]
    until(lambda: streams.held(url, STREAM) == 1, 20)
    ids += [emit(one_dsn, "orders.placed", "k", number=n) for n in range(5)]
    until(lambda: leads(one_dsn, other) and streams.held(url, STREAM) == 6, 20)
    threading.Event().wait(0.5)  # the window is over
    one.process.send_signal(signal.SIGCONT)
    until(lambda: "term ended" in one.log.read_text(), 20)
    ids.append(emit(one_dsn, "orders.placed", "k"))
    until(lambda: streams.held(url, STREAM) >= 7, 20)
    assert order(url) == ids
    assert [one.terminate(), other.terminate()] == [0, 0]


HOLDS_LEASE = """
select l.pid from pg_locks as l
 where l.locktype = 'advisory' and l.classid = %s and l.granted
   and l.database = (select d.oid from pg_database as d where d.datname = current_database())
"""
WAITING = """
select count(*) from pg_stat_activity
 where datname = current_database() and application_name = 'relay term'
   and wait_event_type = 'Lock' and query ilike '%settled_at%'
"""


@pytest.mark.parametrize("ended", ["SIGKILL", "SIGSTOP"])
def test_a_leader_that_ends_while_its_settlement_waits_for_a_lock_loses_the_lease(
    outbox_dsn: str, own_nats: devstack.NatsServer, start: Start, ended: str
) -> None:
    """The lock stays: what the old leader waits for must not keep the lease from the next one."""
    url = own_nats.url
    one, other = pair(start, outbox_dsn, url)
    with psycopg.connect(outbox_dsn) as lock:
        lock.execute("select from relay.cursor for update")
        emit(outbox_dsn, "orders.placed", "k")
        until(lambda: alone(outbox_dsn, WAITING) > 0, 20)
        holder = alone(outbox_dsn, HOLDS_LEASE, LEASE_CLASS)
        one.process.send_signal(signal.Signals[ended])
        until(lambda: alone(outbox_dsn, HOLDS_LEASE, LEASE_CLASS) != holder, TAKEN_OVER)
    emit(outbox_dsn, "orders.placed", "k")
    until(lambda: leads(outbox_dsn, other) and streams.held(url, STREAM) == 2, 20)
    one.process.send_signal(signal.SIGCONT)
    one.end()
    assert other.terminate() == 0


@pytest.fixture
def host() -> Iterator[Host]:
    with vanishing_host_or_skip() as made:
        yield made


@pytest.mark.slow
def test_a_leader_whose_host_vanishes_is_replaced_and_leaves_no_bell_behind(
    postgres_server: devstack.Postgres,
    own_nats: devstack.NatsServer,
    host: Host,
    start: Start,
    tmp_path: Path,
) -> None:
    """No FIN, no RST: the server itself has to end the sessions, and with them lease and bell."""
    listen = {"listen_addresses": f"127.0.0.1,{host.address}", "fsync": "off"}
    with (
        devstack.postgres(postgres_server.installation, settings=listen) as server,
        Proxy("127.0.0.1", own_nats.port, listen=host.address) as cable,
    ):
        asyncio.run(migrations.migrate(server.dsn, "relay"))
        host.admit(server)
        far_dsn = make_conninfo(server.dsn, host=host.address)
        far_url = f"nats://{host.address}:{cable.port}"
        log = tmp_path / "far.log"
        with RelayProcess(far_dsn, far_url, log, within=host.within, **LIVELY) as far:
            until(lambda: leads(server.dsn, far), 20)
            near = start(server.dsn, own_nats.url, **LIVELY)
            until(lambda: "standing by" in near.log.read_text(), 20)
            with Flow(server.dsn, own_nats.url) as flow:
                flow.published_after(time.time(), 20)
                host.vanish()
                assert flow.published_after(time.time(), 20) <= VANISHED_TAKEN_OVER
            sessions = "select count(*) from pg_stat_activity where client_addr = %s::inet"
            until(lambda: alone(server.dsn, sessions, host.own_address) <= POOLED, 20)
            assert leads(server.dsn, near)
        assert near.terminate() == 0


POOLED = 2
"""Sessions of the pool hold nothing, and are left to the server's keepalives."""


@pytest.mark.parametrize("application", ["", "psql", "relay doctor"])
def test_a_stranger_who_holds_the_lease_is_named_and_the_relay_is_not_ready(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start, application: str
) -> None:
    taken = "select pg_advisory_lock(%s, 'relay.outbox'::regclass::oid::int4)"
    with psycopg.connect(one_dsn, autocommit=True, application_name=application) as stranger:
        stranger.execute(taken, (LEASE_CLASS,))
        relay = start(one_dsn, own_nats.url, http="127.0.0.1:0")
        who = f"pid {stranger.info.backend_pid}"
        until(lambda: who in relay.log.read_text(), 20)
        until(lambda: port_of(relay.log) is not None, 20)
        port = port_of(relay.log) or 0
        status, body = probe(port, "readyz")
        assert (status, "no relay's" in body) == (503, True), body  # the log alone names it
        assert probe(port, "livez")[0] == 200
    until(lambda: probe(port, "readyz")[0] == 200, 20)
    emit(one_dsn, "orders.placed")
    until(lambda: streams.held(own_nats.url, STREAM) == 1, 20)
    assert relay.terminate() == 0


def probe(port: int, path: str) -> tuple[int, str]:
    """Ask a probe; its status and its text."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


class SilentHosts:
    """Hosts that accept and answer nothing. ``ports`` has commas between them."""

    def __init__(self, servers: Sequence[socket.socket]) -> None:
        self._servers = servers
        self.ports = ",".join(str(server.getsockname()[1]) for server in servers)

    def met(self) -> bool:
        """Whether somebody has connected to one of them."""
        return bool(select.select(self._servers, [], [], 0)[0])


@contextmanager
def silent_hosts(count: int) -> Iterator[SilentHosts]:
    with ExitStack() as stack:
        yield SilentHosts(
            [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("hosts", [1, 6])
def test_a_stop_while_connecting_to_hosts_that_are_silent_takes_no_more_than_ten_seconds(
    own_nats: devstack.NatsServer, start: Start, hosts: int, name: str
) -> None:
    with silent_hosts(hosts) as silent:
        addresses = ",".join(["127.0.0.1"] * hosts)
        relay = start(f"host={addresses} port={silent.ports} user=nobody", own_nats.url)
        until(silent.met, 20)
        relay.process.send_signal(signal.Signals[name])
        assert relay.process.wait(STOPS_WITHIN) == 0


def test_a_stop_while_nats_is_silent_takes_no_more_than_ten_seconds(
    one_dsn: str, start: Start
) -> None:
    emit(one_dsn, "orders.placed")
    with silent_hosts(1) as silent:
        relay = start(one_dsn, f"nats://127.0.0.1:{silent.ports}")
        until(lambda: leads(one_dsn, relay), 20)
        relay.process.send_signal(signal.SIGTERM)
        assert relay.process.wait(STOPS_WITHIN) == 0


def test_a_hang_up_is_an_orderly_stop(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start
) -> None:
    relay = start(one_dsn, own_nats.url)
    emit(one_dsn, "orders.placed")
    until(lambda: streams.held(own_nats.url, STREAM) == 1, 20)
    relay.process.send_signal(signal.SIGHUP)
    assert relay.process.wait(STOPS_WITHIN) == 0
    assert alone(one_dsn, "select count(*) from relay.pending") == 0
