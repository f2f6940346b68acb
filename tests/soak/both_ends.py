"""Both ends at once: python -m tests.soak.both_ends --minutes 5 --seed 7

    pgbench, 16 clients ──► first bank ──► 2 relays ──► NATS ──► 2 consumers ──► second bank
                              └── trigger: relay.emit, key: the teller

Everything but pgbench is killed and frozen at random, one thing at a time or several. pgbench's
TPC-B is nobody's here. Afterwards everything is healed, the rest has to arrive, and both banks are
compared: each account, teller and branch to the cent, each movement once, and each teller's
movements in order: every one says what the balance is after it. One line of JSON; exit code 0 only
if nothing is wrong.
"""

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import nats
import psycopg
import typer
from nats.js.errors import NotFoundError

from relay import devstack
from relay.consumer import migrations as inbox
from relay.postgres import migrations
from tests.soak.bank.applier import NAME
from tests.soak.bank.things import Load, Program, Server, Thing
from tests.system.harness import STREAM, RelayProcess, connected

ROOT = Path(__file__).parents[2]
BANK = Path(__file__).parent / "bank"
RELAYS = {
    "stream_subjects": "bank.>",
    "retention": "1h",
    "lease_lifetime": "2s",
}
_LONGEST_FREEZE = 4.0
_DRAIN = 120.0


class Banks:
    """Both banks, and what there is between them."""

    def __init__(self, first: devstack.Postgres, second: devstack.Postgres, url: str, folder: Path):
        self.first, self.second, self.url, self.folder = first, second, url, folder

    def open(self, scale: int) -> None:
        """Make the tables; pgbench fills its own."""
        self.pgbench = next(_pgbench(self.first))
        subprocess.run(
            [self.pgbench, "-i", "-q", "-s", str(scale), self.first.dsn],
            check=True,
            capture_output=True,
        )
        asyncio.run(migrations.migrate(self.first.dsn, "relay"))
        asyncio.run(inbox.migrate(self.second.dsn, "relay"))
        for dsn, file in ((self.first.dsn, "first.sql"), (self.second.dsn, "second.sql")):
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute((BANK / file).read_bytes())

    def relay(self, number: int) -> Program:
        def start() -> subprocess.Popen[bytes]:
            log = self.folder / f"relay-{number}.log"
            return RelayProcess(self.first.dsn, self.url, log, **RELAYS).process

        return Program(f"relay {number}", start)

    def consumer(self, number: int) -> Program:
        command = [sys.executable, "-m", "tests.soak.bank.applier", self.second.dsn, self.url]

        def start() -> subprocess.Popen[bytes]:
            with (self.folder / f"consumer-{number}.log").open("ab") as log:
                return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

        return Program(f"consumer {number}", start)

    def moved(self) -> tuple[int, int]:
        """How many movements each bank has."""
        return (
            _all(self.first.dsn, "select count(*) from pgbench_history")[0][0],
            _all(self.second.dsn, "select count(*) from movement")[0][0],
        )

    def differences(self) -> dict[str, int]:
        """How many rows differ, by what they are; each has to be 0."""
        pairs = {
            "accounts": (
                "select aid, abalance::bigint from pgbench_accounts where abalance <> 0",
                "select aid, balance from account where balance <> 0",
            ),
            "tellers": (
                "select tid, tbalance::bigint from pgbench_tellers where tbalance <> 0",
                "select tid, balance from teller where balance <> 0",
            ),
            "branches": (
                "select bid, bbalance::bigint from pgbench_branches where bbalance <> 0",
                "select bid, sum(delta)::bigint from movement group by 1 having sum(delta) <> 0",
            ),
            "movements": (
                "select tid, bid, aid, delta from pgbench_history",
                "select tid, bid, aid, delta from movement",
            ),
        }
        found = {}
        for name, (first, second) in pairs.items():
            ours, theirs = (
                Counter(_all(self.first.dsn, first)),
                Counter(_all(self.second.dsn, second)),
            )
            found[name] = (ours - theirs).total() + (theirs - ours).total()
        found["out_of_order"] = len(_all(self.second.dsn, "select from wrong"))
        parked = "select message_id, last_error from relay.inbox_parked"
        found["parked"] = len(_all(self.second.dsn, parked))
        found["parked_by_relay"] = len(_all(self.first.dsn, "select from relay.parked"))
        return found


def _all(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with connected(dsn) as look:
        return look.execute(query.encode()).fetchall()


def _pgbench(server: devstack.Postgres) -> Iterator[Path]:
    """Yield a pgbench: the server's own, or another one."""
    for installation in (server.installation, *devstack.find_postgres()):
        if (program := installation.bin_dir / "pgbench").exists():
            yield program


@contextmanager
def everything(folder: Path, scale: int) -> Iterator[tuple[Banks, list[Thing]]]:
    """Start both banks, NATS, two relays and two consumers."""
    with ExitStack() as stack:
        first = stack.enter_context(devstack.postgres(settings={"fsync": "on"}))
        second = stack.enter_context(devstack.postgres(settings={"fsync": "on"}))
        bus = stack.enter_context(devstack.nats_server())
        banks = Banks(first, second, bus.url, folder)
        banks.open(scale)
        programs = list[Program]()
        for make, number in (
            (banks.relay, 0),
            (banks.relay, 1),
            (banks.consumer, 0),
            (banks.consumer, 1),
        ):
            if make == banks.consumer:  # a relay makes the stream; a consumer ends without one
                _until(lambda: asyncio.run(_has_stream(bus.url)), 30.0)
            programs.append(make(number))
            stack.callback(programs[-1].end)
        servers = [Server("first bank", first), Server("second bank", second), Server("NATS", bus)]
        yield banks, [*programs, *servers]


def run(
    seed: int, *, minutes: float, kills: int, gap: float, rate: int, scale: int, folder: Path
) -> dict[str, Any]:
    """Inflict, heal, wait, compare. ``kills`` ends it earlier than ``minutes``."""
    chance = random.Random(f"both ends {seed}")
    with everything(folder, scale) as (banks, things):
        _until(lambda: _leads(banks), 30.0)
        load = Load(banks.pgbench, banks.first.dsn, rate, folder / "pgbench.log")
        faults, threads = Counter[str](), list[threading.Thread]()
        began = time.monotonic()
        try:
            while time.monotonic() - began < minutes * 60 and faults.total() < kills:
                time.sleep(chance.expovariate(1 / gap))
                thing, frozen = chance.choice(things), chance.random() < 1 / 3
                seconds = chance.random() * (_LONGEST_FREEZE if frozen else 0.3)
                if thing._lock.locked():
                    continue
                faults[f"{thing.name} {'frozen' if frozen else 'killed'}"] += 1
                threads.append(
                    threading.Thread(target=thing.freeze if frozen else thing.kill, args=(seconds,))
                )
                threads[-1].start()
                threads = [each for each in threads if each.is_alive()]
        finally:
            for thread in threads:
                thread.join()
            lasted = time.monotonic() - began
            load.stop()
        healed = time.monotonic()
        complete = _until(lambda: len(set(banks.moved())) == 1 and not _undone(banks), _DRAIN)
        drained = time.monotonic() - healed
        differences = banks.differences()
        died = {t.name: t.died for t in things if isinstance(t, Program) and t.died}
        terms = _all(
            banks.second.dsn, f"select epoch from relay.inbox_consumer where name = '{NAME}'"
        )
        moved = banks.moved()
    return {
        "seed": seed,
        "seconds": round(lasted),
        "faults": faults.total(),
        "by_kind": dict(sorted(faults.items())),
        "movements": moved[0],
        "consumer_terms": terms[0][0],
        "drained_s": round(drained, 1),
        "differences": differences,
        "died": died,
        "is_clean": complete and moved[0] > 0 and not any(differences.values()) and not died,
    }


async def _has_stream(url: str) -> bool:
    try:
        async with await nats.connect(url) as client:
            await client.jetstream().stream_info(STREAM)
    except NotFoundError:
        return False
    return True


def _leads(banks: Banks) -> bool:
    return bool(_all(banks.second.dsn, "select from relay.inbox_consumer where epoch > 0"))


def _undone(banks: Banks) -> int:
    return _all(banks.first.dsn, "select count(*) from relay.pending")[0][0] or 0


def _until(fact: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def main(
    *,
    minutes: Annotated[float, typer.Option(min=0.05)] = 5.0,
    kills: Annotated[int, typer.Option(min=1, help="End after so many faults.")] = 500,
    seed: Annotated[int | None, typer.Option()] = None,
    gap: Annotated[float, typer.Option(min=0.05, help="Seconds between faults.")] = 0.6,
    rate: Annotated[int, typer.Option(min=1, help="Transactions/s of pgbench.")] = 150,
    scale: Annotated[int, typer.Option(min=1, help="pgbench's scale.")] = 4,
    keep: Annotated[Path | None, typer.Option(help="Where logs are left.")] = None,
) -> None:
    """Kill and freeze both ends, and compare the banks."""
    chosen = random.SystemRandom().randrange(10**6) if seed is None else seed
    with tempfile.TemporaryDirectory(prefix="relay-both-ends-") as folder:
        where = keep or Path(folder)
        where.mkdir(parents=True, exist_ok=True)
        found = run(
            chosen, minutes=minutes, kills=kills, gap=gap, rate=rate, scale=scale, folder=where
        )
    typer.echo(json.dumps(found))
    sys.exit(0 if found["is_clean"] else 1)


if __name__ == "__main__":
    typer.run(main)
