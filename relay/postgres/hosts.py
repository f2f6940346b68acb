"""Which of the hosts that a connection string names is the primary (R-LOSS, R-PHANTOM).

A failover can leave two servers that take writes: the new primary, and the old one, which came back
or never went. Who is right: the higher timeline, for each promotion begins one above all that its
server knew. Servers of different clusters (system identifiers) are not compared.

    before a term     all hosts are asked at once: the highest timeline of those that take writes
    while it lasts    the other hosts again, every 5 s: a higher one ends the term
    beyond it         this process remembers the highest it has seen of each cluster, and does not
                      work at a server below: with one host in the string that is all it can know

On failure: a host that does not answer counts as not there. So a process that has never seen the
new primary, and can't reach it, takes an old one that takes writes for the primary.
"""

import logging
import os
from collections.abc import Sequence
from typing import Final, NamedTuple

import anyio
import psycopg
from psycopg.conninfo import make_conninfo

from relay.errors import RelayError, SchemaError, StoreOutage, TermLost
from relay.postgres.connecting import host_count, parsed
from relay.postgres.session import Session
from relay.postgres.sqlfiles import load

log = logging.getLogger("relay.postgres")

LOOK_EVERY: Final = 5.0
LOOK_DEADLINE: Final = 2.0
OTHERS_WITHIN: Final = 1.0
"""Seconds that the others have once one has answered; a term's loop finds those that are slower."""


class Primary(NamedTuple):
    """A server that takes writes: its connection string, cluster and timeline."""

    dsn: str
    cluster: int
    timeline: int


class Hosts:
    """The hosts of one connection string, and what this process has seen of them."""

    def __init__(self, dsn: str, schema: str) -> None:
        """Ask nobody yet."""
        self._dsn = dsn
        self._each: Sequence[str] = ()
        self._query = load("queries/timeline", schema)
        self._place = (0, 0)
        self._highest: dict[int, int] = {}
        self._named: set[Primary] = set()

    async def choose(self) -> str:
        """Return the connection string of the host to lead at; of all if none takes writes."""
        self._each = self._each or one_by_one(self._dsn)
        if len(self._each) == 1:
            return self._each[0]
        found = await self._look(self._each, LOOK_DEADLINE)
        if not found:
            return self._dsn  # libpq says why
        first = min(found, key=lambda each: self._each.index(each.dsn))
        comparable = [first, *(each for each in found if each.cluster == first.cluster)]
        return max(comparable, key=lambda each: each.timeline).dsn

    async def admit(self, session: Session) -> None:
        """Remember where ``session`` is: a term is to begin there.

        Raises:
            StoreOutage: this process has seen a higher timeline.
        """
        cluster, timeline = self._place = await self._asked(session)
        if timeline < self._highest[cluster]:
            info = session.connection.info
            raise StoreOutage(
                f"{info.host}:{info.port} is an old primary, on timeline {timeline}: its cluster"
                f" was seen on timeline {self._highest[cluster]}. Waiting for the new one; if this"
                " server was restored and is the right one, restart the relay"
            )

    async def confirm(self, server: str, within: float = OTHERS_WITHIN) -> None:
        """See that no other host was promoted over ``server``, which was admitted.

        Raises:
            TermLost: one was.
        """
        others = [each for each in self._each if each != server]
        if len(self._each) > 1:
            await self._look(others, within)
        cluster, timeline = self._place
        if timeline < self._highest[cluster]:
            raise TermLost(
                f"another host was promoted, to timeline {self._highest[cluster]}: this term's"
                f" server, on timeline {timeline}, is an old primary"
            )

    async def watch(self, server: str) -> None:
        """Confirm ``server`` again and again, where there are others; raises as ``confirm``."""
        while len(self._each) > 1:
            await anyio.sleep(LOOK_EVERY)
            await self.confirm(server, LOOK_DEADLINE)

    async def _look(self, hosts: Sequence[str], within: float) -> list[Primary]:
        """Ask ``hosts`` at once, for at most ``within`` s; those that take writes."""
        found: list[Primary] = []

        async def ask(dsn: str) -> None:
            writing = make_conninfo(dsn, target_session_attrs="read-write")
            try:
                async with await Session.connect(writing, "look") as session:
                    found.append(Primary(dsn, *await self._asked(session)))
            except (RelayError, psycopg.Error):
                return
            scope.deadline = min(scope.deadline, anyio.current_time() + OTHERS_WITHIN)

        with anyio.move_on_after(within) as scope:
            async with anyio.create_task_group() as tasks:
                for dsn in hosts:
                    tasks.start_soon(ask, dsn)
        for each in found:
            if each.timeline < self._highest[each.cluster] and each not in self._named:
                self._named.add(each)
                log.warning(
                    "a server takes writes that is no primary any more: nothing is published from"
                    " it, and what is written there is lost; end it",
                    extra={"server": _place(each.dsn), "timeline": each.timeline},
                )
        return found

    async def _asked(self, session: Session) -> tuple[int, int]:
        """Return cluster and timeline; zeros where this login, or the provider, can't tell."""
        try:
            row = await session.row(self._query)
        except (SchemaError, psycopg.Error):
            row = None
        cluster, timeline = (0, 0) if row is None else row
        self._highest[cluster] = max(timeline, self._highest.get(cluster, 0))
        return cluster, timeline


def one_by_one(dsn: str) -> list[str]:
    """Return a connection string for each host of ``dsn``, or of the PG* variables."""
    given = parsed(dsn)
    count = host_count(given)
    if count == 1:
        return [dsn]
    each: list[dict[str, str]] = [{} for _ in range(count)]
    for keyword in ("host", "hostaddr", "port"):
        listed = str(given.get(keyword) or os.environ.get(f"PG{keyword.upper()}") or "")
        values = listed.split(",")
        for number, host in enumerate(each if listed else ()):
            host[keyword] = values[min(number, len(values) - 1)]
    return [make_conninfo(dsn, **host) for host in each]


def _place(dsn: str) -> str:
    given = parsed(dsn)
    return f"{given.get('host') or given.get('hostaddr')}:{given.get('port') or 5432}"
