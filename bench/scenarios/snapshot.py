"""Single calls of the store while another session holds a snapshot, beside the same without it.

The snapshot is older than two hours of settlements at ten a second, and than a million events that
are read, settled and deleted since: nothing of that can be vacuumed. The store is the relay's own,
over its own sessions. Both databases are vacuumed before. What is measured is the processor time of
the sessions, a call: nothing waits for a disk here, and others' load does not count. Linux only.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import anyio
import psycopg

from bench.backlog import fill
from bench.figures import Figure, Findings, at_most, ratios
from bench.scenario import Bench
from relay.core.checkpoint import Tip
from relay.ports import Settlement
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.reading import FEW
from relay.postgres.sqlfiles import load
from relay.postgres.store import PostgresStore

EVENTS, SETTLEMENTS = 1_000_000, 72_000
CALLS, PRUNES = 500, 10
PAGE, CHUNK = 2000, 5000
TIMES = 2.0
CASES = ("without", "with")


def run(bench: Bench) -> Findings:
    """Make the state and time each call, ``bench.runs`` times."""
    times: dict[str, dict[str, list[float]]] = {case: defaultdict(list) for case in CASES}
    bench.plan(bench.runs * len(CASES))
    for _, order in bench.turns(CASES):
        for case in order:
            bench.step(f"{case} a snapshot")
            for call, seconds in timed(bench, held=case == "with").items():
                times[case][call].append(1000 * seconds)
    findings = Findings()
    for call, without in times["without"].items():
        name, found = f"snapshot: {call}", times["with"][call]
        findings.figures += [
            Figure(f"{name}, without", "ms", tuple(without)),
            Figure(f"{name}, with", "ms", tuple(found)),
            at_most(f"{name}, with / without", "ratio", ratios(found, without), TIMES),
        ]
    return findings


def timed(bench: Bench, *, held: bool) -> dict[str, float]:
    """Make the state; the mean s of each call, by its name."""
    with ExitStack() as stack:
        dsn = stack.enter_context(bench.servers.outbox())
        fill(dsn, bench.events(EVENTS))
        if held:
            holder = stack.enter_context(psycopg.connect(dsn))
            holder.execute("set transaction isolation level repeatable read")
            holder.execute("select pg_current_xact_id()")
        return anyio.run(Timing(dsn, bench.events(SETTLEMENTS, least=1000)).run)


class Timing:
    """A term of its own, and how long its calls take."""

    def __init__(self, dsn: str, settlements: int) -> None:
        """Settle so often before anything is timed."""
        self._dsn = dsn
        self._settlements = settlements
        self._settled = 0
        self._position: object | None = None

    async def run(self) -> dict[str, float]:
        """Make the state and time."""
        outbox = PostgresOutbox(self._dsn, "relay", page_bytes=8 << 20)
        store = await outbox.campaign("bench")
        assert store is not None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.watch)
            await self._deliver(store)
            while self._settled < self._settlements:
                await self._settle(store)
            while await store.tend(0.0):
                pass
            with psycopg.connect(self._dsn, autocommit=True) as connection:
                connection.execute("vacuum (analyze)")
            found = await self._time(store)
            tasks.cancel_scope.cancel()
        await store.close()
        await outbox.close()
        return found

    async def _time(self, store: PostgresStore) -> dict[str, float]:
        found = {
            "settle": await self._mean(CALLS, lambda: self._settle(store)),
            "look": await self._mean(CALLS, lambda: store.look(self._position)),
            "tend, nothing to delete": await self._mean(CALLS, lambda: store.tend(0.0)),
            "first_id, few wait": await self._mean(CALLS, lambda: self._window(store)),
        }
        pruned = 0.0
        for _ in range(PRUNES):
            fill(self._dsn, CHUNK)
            await self._deliver(store)
            pruned += await self._mean(1, lambda: store.tend(0.0))
        found[f"tend, {CHUNK:,} to delete"] = pruned / PRUNES
        fill(self._dsn, FEW + 1)
        found["first_id, many wait"] = await self._mean(PRUNES, lambda: self._window(store))
        return found

    async def _mean(self, calls: int, call: Callable[[], Awaitable[object]]) -> float:
        """Call so often; the sessions' processor time a call, in s."""
        began = self._cpu_seconds()
        for _ in range(calls):
            await call()
        return (self._cpu_seconds() - began) / calls

    def _cpu_seconds(self) -> float:
        with psycopg.connect(self._dsn) as connection:
            rows = connection.execute(
                "select pid from pg_stat_activity where datname = current_database()"
                " and backend_type = 'client backend' and pid <> pg_backend_pid()"
            ).fetchall()
        stats = [Path(f"/proc/{pid}/schedstat").read_text() for (pid,) in rows]
        return sum(int(stat.split()[0]) for stat in stats) / 1e9

    async def _deliver(self, store: PostgresStore) -> None:
        """Read and settle all that waits."""
        while (page := await store.read(PAGE)).events:
            self._position = page.position
            await self._settle(store, page.events[-1].id)

    async def _settle(self, store: PostgresStore, top_id: int = 0) -> None:
        self._settled += 1
        store.checkpoints._next_at.clear()  # noqa: SLF001 - as if the last one were 100 ms ago
        tip = Tip("ORDERS", "2026-01-01T00:00:00Z", self._settled, f"m{self._settled}", sure=True)
        await store.settle(Settlement(self._position, tips=[tip], top_id=top_id))

    async def _window(self, store: PostgresStore) -> None:
        """Begin a window, as a read does that finds more than a page."""
        reader = store._reader  # noqa: SLF001 - the statement alone
        params = {"base": reader.position.base, "few": FEW}
        assert await reader.session.row(load("queries/window", "relay"), params) is not None
