"""Asynchronous failover under load, over and over, with an old primary that comes back.

    python -m tests.soak.failover --times 30

Each time the standby is cut off, more is published, the primary is killed and the standby promoted.
Then the old primary is started again beside the new one, with a writer of its own; every second
time both relays are replaced by new ones, which remember nothing. One line of JSON says what was
found; exit code 0 only if all that the last primary has is in the stream once and in order, and
nothing is that was written to an old one.
"""

import asyncio
import json
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from relay import devstack
from relay.audit.stream import read_stream
from relay.devstack.sandbox import free_port
from relay.postgres import migrations
from tests.soak.takeover import summary
from tests.system.failover import SETTINGS, at_ports, behind, judge, rows
from tests.system.harness import STREAM, Load, RelayProcess, connected, delivered, until

EVENTS = 200
"""Delivered before, while the standby is cut off, and after."""

BACK_WITHIN = 60.0
MOST = 2.0


class Rounds:
    """Two relays and a load, at two ports of which one is the primary's."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._nats = stack.enter_context(devstack.nats_server())
        self._server = stack.enter_context(ExitStack())
        self.primary = self._server.enter_context(devstack.postgres(settings=SETTINGS))
        asyncio.run(migrations.migrate(self.primary.dsn, "relay"))
        self._ports = [self.primary.port, free_port()]
        self.dsn = at_ports(self.primary, *self._ports)
        self.load = Load(f"{self.dsn} target_session_attrs=read-write", producers=2, pause=0.005)
        self.had: dict[str, int] = {}
        self.promoted: list[datetime] = []
        self._relays: list[RelayProcess] = []
        self._started = 0
        self._replace()

    def run(self) -> None:
        """Fail over once, and have the old primary come back for a while."""
        old, server = self.primary, self._stack.enter_context(ExitStack())
        other = next(port for port in self._ports if port != old.port)
        cable, second = server.enter_context(behind(old, port=other))
        self._flows(old)
        cable.freeze()
        self._flows(old)
        old.kill()
        second.promote()
        self.promoted.append(datetime.now(UTC))
        self._flows(second)
        old.start()
        self.had |= rows(old.dsn)
        with Load(old.dsn, producers=1):
            if len(self.promoted) % 2:
                self._replace()
            self._flows(second)
        self._server.close()
        self._server, self.primary = server, second

    def judged(self) -> dict[str, Any]:
        """Wait until all is through, and say what is wrong."""
        self.load.stop()
        with connected(self.primary.dsn) as look:
            until(lambda: look.execute(PENDING).fetchone() == (0, 0), BACK_WITHIN)
        stream = asyncio.run(read_stream(self._nats.url, STREAM))
        found = judge(self.load, rows(self.primary.dsn), self.had, stream)
        stored = [each.stored_at for each in stream if each.stored_at is not None]
        took = [
            min((at - since).total_seconds() for at in stored if at >= since)
            for since in self.promoted
        ]
        return {
            "failovers": len(self.promoted),
            "events": len(rows(self.primary.dsn)),
            **found.found.counts,
            "unknown": len(found.unknown),
            "from_old_primaries": len(found.astray),
            "published_and_gone": len(found.gone),
            "ids_given_twice": len(found.twice),
            "to_next_publish": summary(took, MOST, but=1),
            "met": found.is_clean and bool(found.gone),
        }

    def _replace(self) -> None:
        for relay in self._relays:
            relay.kill()
        self._relays = [self._start() for _ in range(2)]

    def _start(self) -> RelayProcess:
        self._started += 1
        log = self._folder / f"relay-{self._started}.log"
        return self._stack.enter_context(RelayProcess(self.dsn, self._nats.url, log))

    def _flows(self, server: devstack.Postgres) -> None:
        before = delivered(server.dsn)
        until(lambda: delivered(server.dsn) >= before + EVENTS, BACK_WITHIN)


PENDING = "select (select count(*) from relay.pending), (select count(*) from relay.parked)"


def main(*, times: Annotated[int, typer.Option(min=1)] = 30) -> None:
    """Fail over; about ten seconds each."""
    with tempfile.TemporaryDirectory(prefix="relay-failover-") as folder, ExitStack() as stack:
        rounds = Rounds(Path(folder), stack)
        with rounds.load:
            for _ in range(times):
                rounds.run()
        found = rounds.judged()
    typer.echo(json.dumps(found))
    sys.exit(0 if found["met"] else 1)


if __name__ == "__main__":
    typer.run(main)
