"""Connections that lie: accepted and silent, one way only, cut in the middle of a frame.

The relay is a process of its own, with a proxy before each of its servers; producers write past it.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from relay import devstack
from relay.postgres.sqlfiles import BELL_CLASS
from tests.system.harness import Load, RelayProcess, connected, delivered, until, verdict
from tests.system.proxy import Direction, Proxy

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

NOTICED_POSTGRES = 10.0
NOTICED_NATS = 6.0
LISTENS_AGAIN = 20.0
"""Seconds, of which a busy machine needs some: the bell is off until a trial commit was quick. Who
does not try again soon tries after 30."""

TICK = 0.05


class Between:
    """A relay between its proxies."""

    def __init__(
        self, relay: RelayProcess, postgres: Proxy, nats: Proxy, dsn: str, nats_url: str
    ) -> None:
        self.relay = relay
        self.postgres = postgres
        self.nats = nats
        self.dsn = dsn
        self.nats_url = nats_url

    def flows(self, seconds: float = 60) -> None:
        """Wait until more is delivered than now."""
        before = delivered(self.dsn)
        until(lambda: delivered(self.dsn) > before, seconds)

    def noticed(self, side: str, since: float, seconds: float) -> None:
        """See that the outage of ``side`` is in the log so soon after ``since``, the wall clock's.

        As long as this machine lets everybody stand still, nobody can notice anything.
        """

        def began() -> list[float]:
            return [
                at
                for line in self.relay.said()
                if line["event"].startswith("outage: ") and line.get("side") == side
                if (at := _seconds(line)) >= since
            ]

        with standing_still() as gaps:
            until(lambda: bool(began()), seconds + 20)
        took = began()[0] - since
        print(f"noticed after {took:.1f} s")  # noqa: T201 - a figure
        assert took <= seconds + gaps(), gaps()


@contextmanager
def standing_still() -> Iterator[Callable[[], float]]:
    """Say afterwards how long a thread that does nothing but tick stood still at most, in s."""
    ticks, over = [time.monotonic()], threading.Event()

    def tick() -> None:
        while not over.wait(TICK):
            ticks.append(time.monotonic())
        ticks.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield lambda: max((b - a - TICK for a, b in itertools.pairwise(ticks)), default=0.0)
    finally:
        over.set()
        thread.join()


def _seconds(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["ts"]).timestamp()


@pytest.fixture
def between(outbox_dsn: str, own_nats: devstack.NatsServer, tmp_path: Path) -> Iterator[Between]:
    with a_relay_between(outbox_dsn, own_nats, tmp_path) as made:
        yield made


@contextmanager
def a_relay_between(
    dsn: str, nats: devstack.NatsServer, folder: Path, **settings: str
) -> Iterator[Between]:
    given = psycopg.conninfo.conninfo_to_dict(dsn)
    with (
        Proxy("127.0.0.1", int(str(given["port"]))) as before_postgres,
        Proxy("127.0.0.1", nats.port) as before_nats,
    ):
        through = make_conninfo(dsn, port=before_postgres.port)
        url = f"nats://127.0.0.1:{before_nats.port}"
        with RelayProcess(through, url, folder / "relay.log", **settings) as relay:
            yield Between(relay, before_postgres, before_nats, dsn, nats.url)


@pytest.mark.slow
async def test_a_frozen_postgres_is_noticed_within_ten_seconds(between: Between) -> None:
    with Load(between.dsn) as load:
        between.flows()
        frozen = time.time()
        between.postgres.freeze()
        between.noticed("postgres", frozen, NOTICED_POSTGRES)
        between.postgres.heal()
        between.flows()
        load.stop()
        found = await verdict(load, between.nats_url)
    assert found.is_clean, found


@pytest.mark.slow
async def test_a_frozen_nats_server_is_noticed_within_six_seconds(between: Between) -> None:
    with Load(between.dsn) as load:
        between.flows()
        frozen = time.time()
        between.nats.freeze()
        between.noticed("nats", frozen, NOTICED_NATS)
        between.nats.heal()
        between.flows()
        load.stop()
        found = await verdict(load, between.nats_url)
    assert found.is_clean, found


@pytest.mark.slow
@pytest.mark.parametrize("side", ["postgres", "nats"])
@pytest.mark.parametrize("way", ["to server", "to client"])
async def test_what_is_lost_on_one_way_is_neither_lost_nor_stored_twice(
    between: Between, side: str, way: Direction
) -> None:
    proxy: Proxy = getattr(between, side)
    with Load(between.dsn) as load:
        between.flows()
        for _ in range(2):
            proxy.drop(way)
            until(lambda: proxy.counts["bytes swallowed"] > 0, 10)
            proxy.reset()
            proxy.heal()
            proxy.counts.clear()
            between.flows()
        load.stop()
        found = await verdict(load, between.nats_url)
    assert found.is_clean, found


@pytest.mark.slow
@pytest.mark.parametrize("side", ["postgres", "nats"])
async def test_a_connection_cut_in_the_middle_of_a_frame_repeats_nothing(
    between: Between, side: str
) -> None:
    proxy: Proxy = getattr(between, side)
    ways: list[Direction] = ["to server", "to client"]
    with Load(between.dsn) as load:
        between.flows()
        for number, size in enumerate([1, 7, 100, 1_000, 3_333, 10_000]):
            proxy.cut_after(size, ways[number % 2])
            between.flows()
        load.stop()
        found = await verdict(load, between.nats_url)
    assert found.is_clean, found
    assert between.relay.process.poll() is None


@pytest.mark.slow
async def test_jitter_half_closed_and_refused_connections_repeat_nothing(between: Between) -> None:
    with Load(between.dsn) as load:
        between.flows()
        for proxy in (between.postgres, between.nats):
            proxy.delay(0.005, 0.02)
            between.flows()
            proxy.heal()
            for way in ("to client", "to server"):
                proxy.half_close(way)
                between.flows()
            proxy.refuse()
            threading.Event().wait(0.5)
            proxy.heal()
            between.flows()
        load.stop()
        found = await verdict(load, between.nats_url)
    assert found.is_clean, found


def listeners(look: psycopg.Connection) -> set[int]:
    """The backends that wait to be rung: they listen, and hold the bell's lock."""
    rows = look.execute(
        "select a.pid from pg_stat_activity as a join pg_locks as l using (pid)"
        " where a.datname = current_database() and a.application_name = 'relay listener'"
        "   and l.locktype = 'advisory' and l.classid = %s and l.granted",
        (BELL_CLASS,),
    )
    return {pid for (pid,) in rows}


async def test_a_killed_listener_soon_listens_again(between: Between) -> None:
    with connected(between.dsn) as look:
        for _ in range(4):
            until(lambda: bool(listeners(look)), 20)
            killed = listeners(look)
            look.execute("select pg_terminate_backend(pid) from unnest(%s) as pid", (list(killed),))
            until(lambda killed=killed: bool(listeners(look) - killed), LISTENS_AGAIN)


@pytest.mark.slow
async def test_a_relay_whose_sessions_are_all_killed_goes_on(between: Between) -> None:
    with Load(between.dsn) as load, connected(between.dsn) as look:
        for _ in range(3):
            between.flows()
            look.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and application_name like 'relay %'"
            )
        between.flows()
        load.stop()
        found = await verdict(load, between.nats_url)
    assert found.is_clean, found
