"""A primary, an asynchronous standby that can be cut off, and what is right after a failover."""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg.conninfo import make_conninfo

from relay import devstack
from relay.audit.oracle import Findings, StreamMessage, compare
from relay.postgres import migrations
from tests.devstack.standby import Standby, standby
from tests.system.harness import Load, connected
from tests.system.proxy import Proxy

SETTINGS = {
    "fsync": "off",
    "wal_retrieve_retry_interval": "100ms",  # a standby finds its promoted primary again at once
}


@contextmanager
def failing_over(installation: devstack.Installation) -> Iterator[devstack.Postgres]:
    """Run a server that may be killed, with the outbox in it."""
    with devstack.postgres(installation, settings=SETTINGS) as server:
        asyncio.run(migrations.migrate(server.dsn, "relay"))
        yield server


@contextmanager
def behind(server: devstack.Postgres, *, port: int = 0) -> Iterator[tuple[Proxy, Standby]]:
    """Run a standby behind a cable that can be frozen."""
    with (
        Proxy("127.0.0.1", server.port) as cable,
        standby(server, SETTINGS, via=cable.port, port=port) as second,
    ):
        yield cable, second


def at_ports(server: devstack.Postgres, *ports: int) -> str:
    """Name several hosts to be tried in this order."""
    hosts = ",".join("127.0.0.1" for _ in ports)
    return make_conninfo(server.dsn, host=hosts, port=",".join(map(str, ports)))


def rows(dsn: str) -> dict[str, int]:
    """Return the ids of the outbox by event id."""
    with connected(dsn) as look:
        return dict(look.execute("select event_id::text, id from relay.outbox").fetchall())


@dataclass(frozen=True, slots=True)
class Judged:
    """What a failover has done.

    Attributes:
        found: what is wrong among the events that the new primary has.
        unknown: events that it has and nobody wrote.
        astray: event ids that were published, and that no primary had while it was one.
        gone: event ids that were published and are lost to the database: nobody can take them back.
        twice: ids that two published events bear, one of them gone.
    """

    found: Findings
    unknown: set[str]
    astray: set[str]
    gone: set[str]
    twice: set[int]

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return self.found.is_clean and not self.unknown and not self.astray


def judge(
    load: Load, has: dict[str, int], had: dict[str, int], stream: Collection[StreamMessage]
) -> Judged:
    """Compare the stream with what the new primary ``has`` and with what old ones ``had``."""
    committed = [each for each in load.committed.values() if each.event_id in has]
    kept: Sequence[StreamMessage] = [each for each in stream if each.event_id in has]
    gone = {each.event_id for each in stream} - set(has)
    return Judged(
        found=compare(committed, kept),
        unknown=set(has) - {each.event_id for each in committed},
        astray=gone - set(had),
        gone=gone,
        twice={had[each] for each in gone & set(had)} & set(has.values()),
    )
