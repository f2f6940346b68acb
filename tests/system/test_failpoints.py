"""Every named place as the last one that a leader reaches, or the one where it falls asleep."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from relay import devstack
from relay.failpoints import PLACES
from relay.postgres.sqlfiles import LEASE_CLASS
from tests.system.harness import Load, RelayProcess, connected, delivered, until, verdict

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(200), pytest.mark.slow]

END_LEASE = """
select pg_terminate_backend(l.pid) from pg_locks as l
 where l.locktype = 'advisory' and l.classid = %s and l.granted
   and l.database = (select d.oid from pg_database as d where d.datname = current_database())
"""


@pytest.fixture
def dsn(one_dsn: str) -> str:
    """One major version of Postgres will do: nothing here depends on which."""
    return one_dsn


class Pair:
    """Relays on one outbox: an armed one, and plain ones that give way to it."""

    def __init__(self, dsn: str, nats_url: str, folder: Path) -> None:
        self._dsn = dsn
        self._nats_url = nats_url
        self._folder = folder
        self._started = 0
        self.plain = self.start()

    def start(self, failpoints: str = "") -> RelayProcess:
        self._started += 1
        log = self._folder / f"relay-{self._started}.log"
        more = {"failpoints": failpoints} if failpoints else {}
        return RelayProcess(self._dsn, self._nats_url, log, **more)

    def leads(self, relay: RelayProcess) -> bool:
        return self.term()[1] == relay.process.pid

    def term(self) -> tuple[int, int, int]:
        """The epoch, who leads, and how much is delivered."""
        with connected(self._dsn) as look:
            row = look.execute("select epoch, holder from relay.cursor").fetchone()
        assert row is not None
        return row[0], int(row[1].split(":")[1]) if row[1] else 0, delivered(self._dsn)

    def give_way(self, armed: RelayProcess) -> None:
        """Kill the plain leader, so that the armed one leads; then another one stands by."""
        until(lambda: "standing by" in armed.log.read_text(), 20)
        self.plain.kill()
        until(lambda: '"leading"' in armed.log.read_text(), 20)
        self.plain = self.start()

    def close(self) -> None:
        if self.plain.process.poll() is None:
            self.plain.kill()


@pytest.fixture
def pair(dsn: str, own_nats: devstack.NatsServer, tmp_path: Path) -> Iterator[Pair]:
    made = Pair(dsn, own_nats.url, tmp_path)
    try:
        yield made
    finally:
        made.close()


def armed_value(place: str, action: str, visit: int) -> str:
    return f"{place.replace(' ', '-')}={action}:{visit}"


def is_stopped(relay: RelayProcess) -> bool:
    looked = os.waitid(os.P_PID, relay.process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
    return looked is not None


async def test_a_leader_killed_at_any_place_loses_repeats_and_reorders_nothing(
    dsn: str, pair: Pair, own_nats: devstack.NatsServer
) -> None:
    chance = random.Random(7)
    with Load(dsn) as load:
        for place in PLACES:
            until(lambda: pair.leads(pair.plain), 20)
            value = armed_value(place, "kill", chance.choice([1, 2, 5, 12]))
            with pair.start(value) as armed:
                pair.give_way(armed)
                until(lambda armed=armed: armed.process.poll() is not None, 20)
                assert armed.process.returncode == -signal.SIGKILL, value
                assert "failpoints are on" in armed.log.read_text()
        until(lambda: pair.leads(pair.plain), 20)
        load.stop()
        found = await verdict(load, own_nats.url)
    assert found.is_clean, found
    assert len(load.committed) > 1000


async def test_a_leader_that_wakes_at_any_place_after_a_takeover_changes_nothing(
    dsn: str, pair: Pair, own_nats: devstack.NatsServer
) -> None:
    """Postgres gives up on the sleeper's session, as it does on a peer that has vanished."""
    chance = random.Random(8)
    with Load(dsn) as load:
        for place in PLACES:
            until(lambda: pair.leads(pair.plain), 20)
            value = armed_value(place, "stop", chance.choice([1, 2, 5, 12]))
            with pair.start(value) as armed:
                pair.give_way(armed)
                until(lambda armed=armed: is_stopped(armed), 20)
                asleep = pair.term()
                assert asleep[1] == armed.process.pid, value
                with psycopg.connect(dsn, autocommit=True) as admin:
                    assert admin.execute(END_LEASE, (LEASE_CLASS,)).fetchall()
                until(
                    lambda asleep=asleep: pair.leads(pair.plain) and pair.term()[2] > asleep[2], 20
                )
                armed.process.send_signal(signal.SIGCONT)
                until(lambda armed=armed: "term ended" in armed.log.read_text(), 20)
                assert pair.term()[:2] == (asleep[0] + 1, pair.plain.process.pid), value
                assert armed.terminate() == 0
        load.stop()
        found = await verdict(load, own_nats.url)
    assert found.is_clean, found
    assert len(load.committed) > 1000
