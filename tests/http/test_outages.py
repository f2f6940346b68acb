"""Real outages as the probes and the page tell them, a taken port, and the service manager."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import pytest

from relay import devstack
from relay.http.health import LEASE
from tests import warm
from tests.http.asking import Served, emit, listening, port_of, serving, settled
from tests.system.harness import RelayProcess, connected, until

pytestmark = pytest.mark.timeout(120)


END_TERMS = (
    "select pg_terminate_backend(pid) from pg_stat_activity"
    " where application_name = 'relay term' and datname = current_database()"
)


@pytest.fixture
def own_postgres() -> Iterator[devstack.Postgres]:
    """One that may be stopped."""
    with devstack.postgres(settings={"fsync": "off"}) as found:
        yield found


def leads(shown: Served) -> bool:
    return shown.is_role("leader") and shown.reason("nats") == "connected"


def is_ready(shown: Served) -> bool:
    return bool(shown.ready[0] == 200)


def headline(shown: Served) -> str:
    with shown.watching() as snapshots:
        return str(next(snapshots)["headline"])


def test_an_idle_leader_tells_that_nats_is_away_and_that_it_is_back(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    """Nothing is published, so nothing but a look of its own can tell."""
    with serving(dsn, own_nats.url, tmp_path / "relay.log") as shown:
        until(lambda: leads(shown), 20)
        own_nats.stop()
        until(lambda: not is_ready(shown), 10)
        status, said = shown.ready
        assert status == 503
        assert {name for name, check in said["checks"].items() if not check["ok"]} == {"nats"}
        assert said["checks"]["nats"]["reason"].startswith("away for ")
        until(lambda: headline(shown) == "Outage: NATS is away", 5)
        with shown.watching() as snapshots:
            reasons = (" ".join(each["reasons"]) for each in islice(snapshots, 8))
            assert any("The outbox takes" in each for each in reasons)
        assert shown.ask("/livez").status == 200, "an outage is no reason to restart"
        own_nats.start()
        until(lambda: is_ready(shown), 10)
        until(lambda: headline(shown) == "Healthy", 5)
        emit(dsn)
        until(lambda: settled(dsn, 1), 10)


def test_a_loop_that_does_not_turn_answers_no_probe(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    with serving(dsn, own_nats.url, tmp_path / "relay.log") as shown:
        until(lambda: leads(shown), 20)
        shown.relay.process.send_signal(signal.SIGSTOP)
        with socket.create_connection(("127.0.0.1", shown.port)) as probe:
            probe.settimeout(1)
            probe.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with pytest.raises(TimeoutError):
                probe.recv(100)
            shown.relay.process.send_signal(signal.SIGCONT)
            probe.settimeout(20)
            assert probe.recv(100).startswith(b"HTTP/1.1 ")
        until(lambda: shown.ask("/livez").status == 200, 10)


def test_the_lag_breaker_makes_it_not_ready_until_the_lag_is_gone(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    settings = {"circuit_breaker_lag": "1s"}
    with serving(dsn, own_nats.url, tmp_path / "relay.log", **settings) as shown:
        until(lambda: leads(shown), 20)
        own_nats.stop()
        emit(dsn, count=3)
        until(lambda: shown.reason("lag").startswith("the breaker is open"), 20)
        assert not shown.ready[1]["checks"]["lag"]["ok"]
        own_nats.start()
        until(lambda: is_ready(shown), 20)
        assert shown.reason("lag") == "within its limit"


def test_postgres_away_and_back_is_told_by_leader_and_standby(
    own_postgres: devstack.Postgres, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    dsn = own_postgres.create_database("shop")
    assert migrate(dsn) == 0
    with (
        serving(dsn, own_nats.url, tmp_path / "one.log") as one,
        serving(dsn, own_nats.url, tmp_path / "two.log") as two,
    ):
        until(lambda: is_ready(one) and is_ready(two), 20)
        own_postgres.stop()
        until(lambda: not is_ready(one) and not is_ready(two), 20)
        for shown in (one, two):
            assert shown.reason("postgres").startswith("away for ")
            assert shown.ask("/livez").status == 200
        until(lambda: headline(one) == headline(two) == "Outage: Postgres is away", 5)
        own_postgres.start()
        until(lambda: is_ready(one) and is_ready(two), 30)
        roles = {shown.ready[1]["role"] for shown in (one, two)}
        assert roles == {"leader", "standby"}


@pytest.mark.slow
@pytest.mark.parametrize("before", ["at the start", "while it stands by"])
def test_a_stranger_who_holds_the_lease_is_told_and_ends_with_it(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path, before: str
) -> None:
    lease = "select pg_advisory_lock(1919247482, 'relay.outbox'::regclass::oid::int4)"
    with ExitStack() as stack:
        if before == "while it stands by":
            leader = stack.enter_context(RelayProcess(dsn, own_nats.url, tmp_path / "leader.log"))
            until(lambda: '"leading"' in leader.log.read_text(), 20)
        else:
            stranger = stack.enter_context(connected(dsn))
            stranger.execute(lease)
        shown = stack.enter_context(serving(dsn, own_nats.url, tmp_path / "relay.log"))
        if before == "while it stands by":
            until(lambda: shown.is_role("standby"), 20)
            stranger = stack.enter_context(connected(dsn))
            leader.process.send_signal(signal.SIGSTOP)  # so that the stranger is the next in line
            stranger.execute(f"{END_TERMS}; {lease}")  # at once: nobody else may be the next
            leader.kill()
        until(lambda: not is_ready(shown), 20)
        until(lambda: LEASE in shown.reason("lease"), 20)
        checks = shown.ready[1]["checks"]
        unseen = ["schema"] if before == "at the start" else []
        assert [name for name, check in checks.items() if not check["ok"]] == [*unseen, "lease"]
        assert headline(shown) == "Outage: a stranger holds the lease"
        assert f"pid {stranger.info.backend_pid}" in (tmp_path / "relay.log").read_text()
        assert shown.ask("/livez").status == 200
        stranger.close()
        until(lambda: leads(shown), 20)
        until(lambda: is_ready(shown), 20)


def test_a_schema_that_changes_under_a_relay_is_told_with_the_remedy(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    with serving(dsn, own_nats.url, tmp_path / "relay.log") as shown:
        until(lambda: leads(shown), 20)
        with connected(dsn) as owner:
            owner.execute("alter schema relay rename to elsewhere")
            until(lambda: not shown.ready[1]["checks"]["schema"]["ok"], 20)
            assert "python -m relay migrate" in shown.reason("schema")
            owner.execute("alter schema elsewhere rename to relay")
        until(lambda: is_ready(shown), 20)


def test_before_the_first_term_it_is_alive_and_not_ready(
    own_postgres: devstack.Postgres, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    dsn = own_postgres.create_database("shop")
    assert migrate(dsn) == 0
    own_postgres.stop()
    with serving(dsn, own_nats.url, tmp_path / "relay.log") as shown:
        until(lambda: shown.reason("postgres").startswith("away for"), 20)
        assert shown.ready[1]["role"] == "starting"
        assert shown.ask("/livez").status == 200
        own_postgres.start()
        until(lambda: is_ready(shown), 30)


def test_the_page_of_a_stream_that_takes_nothing_says_which(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    nats_settings = {"stream_create": "true"}
    with serving(dsn, own_nats.url, tmp_path / "relay.log", **nats_settings) as shown:
        until(lambda: leads(shown), 20)
        emit(dsn)
        until(lambda: settled(dsn, 1), 10)
        delete_stream(own_nats)
        emit(dsn)
        with shown.watching() as snapshots:
            state = next(each for each in snapshots if each["streams"][0]["trouble"])
        assert state["streams"][0]["name"] == "EVENTS"
        assert state["headline"] == "Degraded: a stream takes nothing"
        assert "EVENTS takes nothing" in " ".join(state["reasons"])


def test_a_taken_default_port_is_a_warning_and_events_flow(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    log = tmp_path / "relay.log"
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8080))
            taken.listen()
        except OSError:
            ours = False  # somebody else has it, which is as good
        else:
            ours = True
        with RelayProcess(dsn, own_nats.url, log, http="") as relay:
            until(lambda: "no status page" in log.read_text(), 20)
            emit(dsn)
            until(lambda: settled(dsn, 1), 20)
            assert port_of(log) is None
            taken.close()
            if ours:
                until(lambda: port_of(log) == 8080, 20)
                until(lambda: is_ready(Served(8080, relay)), 20)
            assert relay.terminate() == 0
    assert "Traceback" not in log.read_text()
    assert "set RELAY_HTTP" in log.read_text()


def test_a_port_that_somebody_asked_for_and_is_taken_ends_it_with_2(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    log = tmp_path / "relay.log"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with RelayProcess(dsn, own_nats.url, log, http=address) as relay:
            assert relay.process.wait(20) == 2
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["event"] == (
        f"http = {address} can't be listened on: Address already in use;"
        " choose another address, or off"
    )
    assert last["exit_code"] == 2
    for address, reason in (
        ("192.0.2.1:80", "Cannot assign requested address"),
        ("no-such-host.invalid:80", "can't be listened on: "),
    ):
        with RelayProcess(dsn, own_nats.url, log, http=address) as relay:
            assert relay.process.wait(20) == 2
        assert reason in log.read_text().splitlines()[-1]
    assert "Traceback" not in log.read_text()


def test_off_listens_nowhere_and_loads_no_web_server(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    log = tmp_path / "relay.log"
    with RelayProcess(dsn, own_nats.url, log) as relay:
        until(lambda: '"leading"' in log.read_text(), 20)
        maps = Path(f"/proc/{relay.process.pid}/net/tcp")
        if maps.exists():
            assert listening(relay.process.pid) == []
        assert relay.terminate() == 0


def test_who_watches_does_not_delay_the_stop_and_a_second_signal_still_counts(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    with serving(dsn, own_nats.url, tmp_path / "relay.log", shutdown_timeout="30s") as shown:
        until(lambda: leads(shown), 20)
        with shown.watching() as snapshots:
            next(snapshots)
            assert shown.relay.terminate() == 0  # which waits for 10 s
    own_nats.stop()
    with serving(dsn, own_nats.url, tmp_path / "two.log", shutdown_timeout="30s") as shown:
        until(lambda: shown.is_role("leader"), 20)
        shown.relay.process.send_signal(signal.SIGTERM)
        shown.relay.process.send_signal(signal.SIGTERM)
        assert shown.relay.process.wait(10) in (0, 130)


def test_the_service_manager_hears_of_a_real_relay_s_life(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        told = spoken_by_a_relay(dsn, own_nats, tmp_path, manager)
    assert told[0] == "WATCHDOG=1"
    ready = told.index("READY=1")
    assert "STATUS=Healthy" in told[ready:]
    assert told[ready:].count("WATCHDOG=1") >= 2
    assert told[-2:] == ["STOPPING=1", "STATUS=Stopping"]


def spoken_by_a_relay(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path, manager: socket.socket
) -> list[str]:
    environ = {
        **{name: text for name, text in os.environ.items() if not name.startswith("RELAY_")},
        "RELAY_POSTGRES_DSN": dsn,
        "RELAY_NATS_URL": own_nats.url,
        "RELAY_HTTP": "off",
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "600000",
    }
    told: list[str] = []

    def listen_for(word: str, times: int) -> None:
        while told.count(word) < times:
            told.extend(manager.recv(4096).decode().split("\n"))

    with (tmp_path / "relay.log").open("wb") as log:
        relay = subprocess.Popen([sys.executable, "-m", "relay", "run"], env=environ, stderr=log)
    try:
        listen_for("READY=1", 1)
        listen_for("WATCHDOG=1", told.count("WATCHDOG=1") + 2)
        relay.send_signal(signal.SIGTERM)
        listen_for("STOPPING=1", 1)
        assert relay.wait(10) == 0
    finally:
        relay.kill()
        relay.wait(10)
    return told


def migrate(dsn: str) -> int:
    command = [sys.executable, "-m", "relay", "migrate"]
    environ = {**os.environ, "RELAY_POSTGRES_DSN": dsn}
    return warm.run(command, env=environ).returncode


def delete_stream(server: devstack.NatsServer) -> None:
    import asyncio

    import nats

    async def delete() -> None:
        client = await nats.connect(server.url)
        await client.jetstream().delete_stream("EVENTS")
        await client.close()

    asyncio.run(delete())
