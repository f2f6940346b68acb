"""The servers, proxies, relays and producers of a soak, and what is asked of all of them together.

    producers ─────────────────► Postgres ◄──proxy── relay 0, 1 ──proxy──► nats-server
    administrators (faults, oracle) ─┤         └cable── relay 2 ──cable┘       │
                                     └─────────────────────────────────────────┘

Only the relays go through the proxies, and they log in with no more rights than a relay needs. The
host of relay 2 can vanish: its cables are proxies of their own, before the others. ``heal`` takes
every fault back; ``undone`` is the relays' own word on what is left to do, which the oracle checks.
"""

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from relay import devstack
from relay.postgres import migrations
from relay.postgres.sqlfiles import LEASE_CLASS
from tests.soak import load
from tests.soak.broker import AWAY, CONFIG, Broker
from tests.soak.fleet import RELAYS, VANISHING, Fleet, Home
from tests.soak.load import Ledger, Load, Producer
from tests.soak.recovery import Recoveries
from tests.soak.watch import Watch
from tests.system.harness import connected
from tests.system.proxy import Proxy

_HEAL_TIMEOUT = 30.0
_SMALL_QUEUES_SINCE = 17
"""Postgres: before that, the NOTIFY queue has 8 GB."""

LOGIN = "soak"
END_LEASE = """
select pg_terminate_backend(l.pid) from pg_locks as l
 where l.locktype = 'advisory' and l.classid = %s and l.granted
"""


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
        homes = [self._home("postgres", "nats")] * RELAYS
        homes[VANISHING] = self._home("cable to postgres", "cable to nats")
        self.fleet = Fleet(self.dsn, homes, folder)
        self.watch = Watch(self.fleet)

    def _home(self, postgres: str, nats: str) -> Home:
        """Return where a relay finds its servers: behind these proxies, with a login of its own."""
        dsn = make_conninfo(self.dsn, port=self.proxies[postgres].port, user=LOGIN)
        return Home(dsn, f"nats://127.0.0.1:{self.proxies[nats].port}")

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
        self.restore(partial(self.hide_rows, hide=False))
        self.fleet.excused.clear()
        self.begin_another_term()  # which takes rows of another cluster in

    def restore(self, change: Callable[[], None]) -> None:
        """Do ``change``, which must not fail, as soon as the server lets us."""
        deadline, pause = time.monotonic() + _HEAL_TIMEOUT, threading.Event()
        while True:
            try:
                change()
            except (*AWAY, psycopg.OperationalError):
                if time.monotonic() > deadline:
                    raise
                pause.wait(0.1)
            else:
                return

    def undone(self) -> str:
        """Say what the relays have still to do; "" if nothing."""
        with connected(self.dsn) as look:
            row = look.execute(
                "select (select count(*) from relay.pending), (select count(*) from relay.parked"
                " where dead_at is null and subject <> %s)",
                (load.UNCLAIMED,),
            ).fetchone()
        assert row is not None
        return f"{row[0]} pending, {row[1]} parked and not dead" if any(row) else ""

    def dead(self) -> dict[str, str]:
        """Return the dead events: by event id, their last error."""
        with connected(self.dsn) as look:
            rows = look.execute(
                "select event_id::text, last_error from relay.parked where dead_at is not null"
            ).fetchall()
        return dict(rows)

    def parked(self) -> dict[str, str]:
        """Return all that are parked, the dead among them: by event id, their last error."""
        with connected(self.dsn) as look:
            rows = look.execute("select event_id::text, last_error from relay.parked").fetchall()
        return dict(rows)

    def hide_rows(self, *, hide: bool) -> None:
        """Switch row security on the outbox on or off, for everybody.

        Raises:
            psycopg.OperationalError: Postgres is away, or somebody uses the table.
        """
        verbs = ("enable", "force") if hide else ("disable", "no force")
        what = ", ".join(f"{verb} row level security" for verb in verbs)
        with self.admin() as admin, admin.transaction():
            admin.execute("set local lock_timeout = '2s'")
            admin.execute(f"alter table relay.outbox {what}".encode())

    def begin_another_term(self) -> None:
        """End the session that holds the lease, as Postgres does with a peer that has vanished."""
        with suppress(psycopg.OperationalError), self.admin() as admin:
            admin.execute(END_LEASE, (LEASE_CLASS,))


@contextmanager
def world(seed: int, rate: float, folder: Path) -> Iterator[World]:
    """Start everything, without load yet; nothing of it is left afterwards but ``folder``."""
    with ExitStack() as stack:
        newest = devstack.find_postgres()[0]
        settings = {"fsync": "on"}
        if newest.major >= _SMALL_QUEUES_SINCE:
            settings["max_notify_queue_pages"] = "64"
        postgres = stack.enter_context(devstack.postgres(newest, settings=settings))
        nats = stack.enter_context(devstack.nats_server(CONFIG))
        asyncio.run(migrations.migrate(postgres.dsn, "relay"))
        _make_login(postgres)
        proxies = {
            "postgres": stack.enter_context(Proxy("127.0.0.1", postgres.port)),
            "nats": stack.enter_context(Proxy("127.0.0.1", nats.port)),
        }
        for side in ("postgres", "nats"):
            cable = Proxy("127.0.0.1", proxies[side].port)
            proxies[f"cable to {side}"] = stack.enter_context(cable)
        made = World(
            seed=seed, rate=rate, postgres=postgres, nats=nats, proxies=proxies, folder=folder
        )
        stack.callback(made.fleet.close)
        stack.callback(made.watch.close)
        stack.callback(made.load.stop)
        yield made


def _make_login(postgres: devstack.Postgres) -> None:
    """Make the relays' login: no superuser, no owner, with the administrator's password."""
    with psycopg.connect(postgres.dsn, autocommit=True) as admin:
        login = sql.Identifier(LOGIN)
        password = sql.Literal(postgres.password)
        admin.execute(sql.SQL("create role {} login password {}").format(login, password))
        admin.execute(sql.SQL("grant relay_relay to {}").format(login))
