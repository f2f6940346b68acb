"""The servers, proxies, relays and producers of a soak, and what is asked of all of them together.

    producers ─────────────────► Postgres ◄──proxy── relay 0, 1, 2 ──proxy──► nats-server
    administrators (faults, oracle) ─┴──────────────────────────────────────────────┘

Only the relays go through the proxies. ``heal`` takes every fault back; ``drained`` is the relays'
own word that nothing is left to do, which the oracle then checks.
"""

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from relay import devstack
from relay.postgres import migrations
from tests.soak import load
from tests.soak.broker import AWAY, CONFIG, Broker
from tests.soak.fleet import Fleet
from tests.soak.load import Ledger, Load, Producer
from tests.soak.recovery import Recoveries
from tests.soak.watch import Watch
from tests.system.harness import connected
from tests.system.proxy import Proxy

_HEAL_TIMEOUT = 30.0


class World:
    """Everything of one soak. ``violations`` are what no fault excuses."""

    def __init__(
        self,
        *,
        seed: int,
        rate: float,
        postgres: devstack.Postgres,
        nats: devstack.NatsServer,
        proxies: dict[str, Proxy],
        folder: Path,
    ) -> None:
        self.postgres = postgres
        self.nats = nats
        self.proxies = proxies
        self.dsn = postgres.dsn
        self.broker = Broker(nats)
        self.ledger = Ledger()
        self.load = Load(self.dsn, self.ledger, seed, rate)
        self.recoveries = Recoveries(self.broker)
        self.locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self.folder = folder
        self._singles = load.singles(seed, self.ledger, self.dsn)
        self._making = threading.Lock()
        behind = make_conninfo(self.dsn, port=proxies["postgres"].port)
        self.fleet = Fleet(self.dsn, behind, f"nats://127.0.0.1:{proxies['nats'].port}", folder)
        self.watch = Watch(self.fleet)

    @property
    def violations(self) -> list[str]:
        return self.fleet.violations

    def single(self) -> Producer:
        """Return a producer with keys that nobody else uses."""
        with self._making:
            return next(self._singles)

    def admin(self) -> psycopg.Connection:
        """Connect past the proxy.

        Raises:
            psycopg.OperationalError: Postgres is away.
        """
        return psycopg.connect(self.dsn, autocommit=True, connect_timeout=2)

    def heal(self) -> None:
        """Take back what faults may have left. None runs any more when this is called."""
        for proxy in self.proxies.values():
            proxy.heal()
        self.fleet.heal()
        self.broker.permit(publish=True)
        self.restore(self.broker.change)

    def restore(self, change: Callable[[], None]) -> None:
        """Do ``change``, which must not fail, as soon as the server lets us."""
        deadline, pause = time.monotonic() + _HEAL_TIMEOUT, threading.Event()
        while True:
            try:
                change()
            except AWAY:
                if time.monotonic() > deadline:
                    raise
                pause.wait(0.1)
            else:
                return

    def undone(self) -> str:
        """Say what the relays have still to do; "" if nothing."""
        with connected(self.dsn) as look:
            row = look.execute(
                "select (select count(*) from relay.pending),"
                " (select count(*) from relay.parked where dead_at is null)"
            ).fetchone()
        assert row is not None
        return f"{row[0]} pending, {row[1]} parked and not dead" if any(row) else ""

    def dead(self) -> dict[str, str]:
        """Return the dead letters: by event id, their last error."""
        with connected(self.dsn) as look:
            rows = look.execute(
                "select event_id::text, last_error from relay.parked where dead_at is not null"
            ).fetchall()
        return dict(rows)


@contextmanager
def world(seed: int, rate: float, folder: Path) -> Iterator[World]:
    """Start everything, without load yet; nothing of it is left afterwards but ``folder``."""
    with ExitStack() as stack:
        postgres = stack.enter_context(devstack.postgres(settings={"fsync": "on"}))
        nats = stack.enter_context(devstack.nats_server(CONFIG))
        asyncio.run(migrations.migrate(postgres.dsn, "relay"))
        proxies = {
            "postgres": stack.enter_context(Proxy("127.0.0.1", postgres.port)),
            "nats": stack.enter_context(Proxy("127.0.0.1", nats.port)),
        }
        made = World(
            seed=seed, rate=rate, postgres=postgres, nats=nats, proxies=proxies, folder=folder
        )
        stack.callback(made.fleet.close)
        stack.callback(made.watch.close)
        stack.callback(made.load.stop)
        yield made
