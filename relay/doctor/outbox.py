"""The checks of the outbox at work: the bell, the lease, what waits and why, what holds it back.

Authoritative: the status view, as of the last settlement; ``relay.postgres.status`` for who leads
and why events are parked; ``relay.jetstream.codes`` for what an error code means. The round trip of
NOTIFY is the bell's own trial commit, on the real channel: a relay that sleeps is woken once by it.
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import anyio
from psycopg import sql

from relay.core.backoff import State as Breaker
from relay.core.durations import lasting
from relay.doctor.postgres import MIGRATE, SET, Database
from relay.doctor.report import Check, Seen, check, fault, ok, skipped, warning
from relay.errors import StoreOutage
from relay.jetstream.codes import code_of
from relay.postgres.bell import FULL
from relay.postgres.connecting import one_host, open_connection
from relay.postgres.pool import Pool
from relay.postgres.session import Session
from relay.postgres.sqlfiles import BELL_CLASS
from relay.postgres.status import Reason, reasons, standbys, status, stranger
from relay.postgres.trial import TOO_LONG, Trial

OLD: Final = 60.0
"""Seconds for which a transaction may be open without a word."""

SETTLED_WITHIN: Final = 30.0
"""Seconds: with events that wait, a leader settles at least once in this time."""

LOOK_AGAIN: Final = 1.2
"""Seconds after which a steady flow has been settled: once a second."""

HEARD_WITHIN: Final = 1.0
MANY_DEAD_ROWS: Final = 200_000
"""Ten times what lets autovacuum begin (see sql/migrations/0001_outbox.sql)."""

SYNCED_WITHIN: Final = 120.0
"""Seconds: JetStream's default ``sync_interval``, which no client can ask for."""

_END: Final = "select pg_terminate_backend({})"


CHECKS: Final = list[Check[Any]]()
_check = partial(check, CHECKS)


class Outbox(Database):
    """The outbox at work."""

    _row: Mapping[str, Any] = MappingProxyType({})
    _status: Mapping[str, Any] = MappingProxyType({})
    _reasons: Sequence[Reason] = ()

    async def row(self) -> Mapping[str, Any]:
        """Return ``doctor_outbox``'s row, asked once."""
        if not self._row:
            (self._row,) = await self.rows("doctor_outbox")
        return self._row

    async def status(self) -> Mapping[str, Any]:
        """Return the status by column, asked once."""
        if not self._status:
            self._status = await status(self.session, self.schema)
        return self._status

    def age(self, at: datetime) -> float:
        """Return for how many s ``at`` has been past, by the server's clock."""
        ahead: timedelta = self.server["now"] - self.server["asked"]
        return max(0.0, (datetime.now(UTC) + ahead - at).total_seconds())

    # The bell.

    @_check("trigger", "whether writers ring a relay that sleeps", "outbox")
    async def _trigger(self) -> list[Seen]:
        found = await self.facts("trigger", "relay_notify is there and enabled")
        if (await self.row())["trigger"] in {"D", "R"}:
            poll = lasting(self.settings.poll_interval)
            seen = f"relay_notify is disabled: the relay polls, every {poll}"
            return [warning(seen, f"{MIGRATE} --notify, unless two-phase commit is in use")]
        return found

    @_check("queue", "how full the NOTIFY queue is", "trigger")
    async def _queue(self) -> list[Seen]:
        queue = (await self.row())["queue"]
        used = f"{queue:.0%} of the NOTIFY queue is in use"
        if queue >= FULL:
            remedy = "end the oldest transaction of a session that listens: see pg_stat_activity"
            return [warning(f"{used}: writers do not ring, and the relay polls", remedy)]
        return [ok(used)]

    @_check("bell", "who else holds its lock", "outbox")
    async def _bell(self) -> list[Seen]:
        found = [
            warning(
                f"pid {row['pid']}, login {row['usename']}, application"
                f" {row['application_name']!r} holds the bell's lock: the relay polls",
                _END.format(row["pid"]),
            )
            for row in await self.rows("lease_holder", lock_class=BELL_CLASS)
            if row["application_name"] != "relay listener" and row["pid"] is not None
        ]
        return found or [ok("its lock is free, or a relay's")]

    @_check("notify", "a round trip on the real channel, timed", "outbox")
    async def _notify(self) -> list[Seen]:
        dsn = one_host(self.settings.conninfo, self.session.connection)
        channel, token = f"{self.schema}.outbox", f"doctor {secrets.token_hex(8)}"
        heard, listener = anyio.Event(), None
        pool = Pool(lambda kind: open_connection(dsn, "doctor", {}, kind))
        try:
            listener = await Session.connect(dsn, "doctor")
            listener.connection.add_notify_handler(
                lambda notice: heard.set() if notice.payload == token else None
            )
            await listener.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
            trial = Trial(pool, channel, token, now=time.monotonic)
            began = time.monotonic()
            await trial.once()
            ring = trial.seconds
            with anyio.move_on_after(HEARD_WITHIN):
                while ring is not None and not heard.is_set():
                    await listener.execute(sql.SQL("select 1").format())
                    await anyio.sleep(0.005)
            took = time.monotonic() - began
        except StoreOutage as error:
            return [skipped(f"no further session: {error}", "see the check sessions")]
        finally:
            if listener is not None:
                listener.drop()
            with anyio.move_on_after(0.5, shield=True):
                await pool.close()
        if ring is None:
            seen = f"a commit that rings takes more than {lasting(TOO_LONG)}: the relay polls"
            remedy = "look for a slow WAL flush, or a synchronous standby that is away"
            return [warning(seen, remedy)]
        if not heard.is_set():
            seen = f"a notification did not arrive within {lasting(HEARD_WITHIN)}: the relay polls"
            return [warning(seen, "name Postgres itself in RELAY_POSTGRES_DSN, without a pooler")]
        cost = f"a ring adds {ring * 1000:.1f} ms to a commit"
        return [ok(f"there and back in {took * 1000:.0f} ms; {cost}")]

    # Who leads, and how far.

    @_check("lease", "who leads, and how many stand by", "outbox")
    async def _lease(self) -> list[Seen]:
        row = await self.status()
        if not row["led"]:
            return [warning("no relay leads", "python -m relay run; its log says why it ends")]
        other = await stranger(self.session, self.schema)
        if other:
            pid = other.removeprefix("pid ").partition(",")[0]
            remedy = _END.format(pid) if pid.isdigit() else "see pg_prepared_xacts, and end it"
            return [fault(f"held by a session that is no relay's: {other}", remedy)]
        others = len(await standbys(self.session, self.schema))
        return [ok(f"held by {row['holder']}; {others} standing by")]

    @_check("term", "the leader's epoch and its bus breaker", "lease")
    async def _term(self) -> list[Seen]:
        row = await self.status()
        if not row["led"]:
            return [ok("none: no relay leads")]
        if row["bus_breaker"] == Breaker.OPEN:
            seen = "the leader does not reach NATS (its bus breaker is open)"
            return [fault(seen, "see the checks of NATS below, and the leader's log")]
        return [ok(f"epoch {row['epoch']}, for {lasting(self.age(row['term_began_at']))}")]

    @_check("cursor", "when something was settled last", "term")
    async def _cursor(self) -> list[Seen]:
        if self._stands_still(await self.status()):
            await anyio.sleep(LOOK_AGAIN)  # an event that has just come is settled by then
            self._status = {}
        row = await self.status()
        if row["settled_at"] is None:
            return [ok("nothing was ever settled")]
        ago = lasting(self.age(row["settled_at"]))
        if self._stands_still(row):
            seen = f"backlog {row['backlog']}, but nothing was settled for {ago}"
            return [fault(seen, "see the checks of NATS below, and the leader's log")]
        return [ok(f"settled {ago} ago")]

    def _stands_still(self, row: Mapping[str, Any]) -> bool:
        since = [row[name] for name in ("settled_at", "term_began_at") if row[name] is not None]
        late = bool(since) and self.age(max(since)) > SETTLED_WITHIN
        return late and row["led"] and row["backlog"] > 0

    @_check("lag", "the oldest undelivered event's age", "term", "cursor")
    async def _lag(self) -> list[Seen]:
        row, limit = await self.status(), self.settings.circuit_breaker_lag
        more = " or more" * row["backlog_is_capped"]
        waiting = f"backlog {row['backlog']}{more}"
        if row["lag_seconds"] > limit:
            seen = f"{waiting}, the oldest undelivered one is {lasting(row['lag_seconds'])} old"
            return [fault(seen, "see the checks lease, parked and those of NATS for the cause")]
        return [ok(f"{waiting}; lag {lasting(row['lag_seconds'])}")]

    @_check("parked", "why events wait", "outbox")
    async def _parked(self) -> list[Seen]:
        self._reasons = await reasons(self.session, self.schema)
        found = [_reason(each) for each in self._reasons if not each.dead]
        return found or [ok("no event waits for another try")]

    @_check("dead", "why events are dead", "parked")
    async def _dead(self) -> list[Seen]:
        return [_reason(each) for each in self._reasons if each.dead] or [ok("no event is dead")]

    # What holds it back.

    @_check("transactions", "old ones, prepared ones, slots", "version")
    async def _transactions(self) -> list[Seen]:
        rows = await self.rows("doctor_transactions")
        found = [_transaction(each) for each in rows if each["age"] and each["age"] > OLD]
        found += [
            warning(
                f"the replication slot {row['name']} is inactive and holds back vacuum",
                "start its consumer, or: select pg_drop_replication_slot"
                f"({sql.Literal(row['name']).as_string()})",
            )
            for row in rows
            if row["kind"] == "slot"
        ]
        hidden = [row for row in rows if row["kind"] == "session" and row["age"] is None]
        if hidden and not self.server["sees_all"]:
            pids = ", ".join(row["name"] for row in hidden)
            grant = f"grant pg_read_all_stats to {self.server['login']}"
            found.append(skipped(f"how old those of pid {pids} are may not be seen", grant))
        return found or [ok(f"none is older than {lasting(OLD)}")]

    @_check("vacuum", "autovacuum and dead rows", "outbox")
    async def _vacuum(self) -> list[Seen]:
        server, row, outbox = self.server, await self.row(), f"{self.schema}.outbox"
        found = [
            warning(
                f"{name} is off: the outbox grows without end",
                f"{SET.format(name)}; select pg_reload_conf()",
            )
            for name in ("autovacuum", "track_counts")
            if not server[name]
        ]
        if row["vacuum_is_off"]:
            remedy = f"alter table {outbox} reset (autovacuum_enabled)"
            found.append(warning(f"autovacuum is off for {outbox}", remedy))
        if row["dead_rows"] > MANY_DEAD_ROWS:
            seen = f"{outbox} has {row['dead_rows']} dead rows"
            found.append(warning(seen, f"see the check transactions, then: vacuum {outbox}"))
        mib = row["size_bytes"] / 2**20
        return found or [ok(f"{row['dead_rows']} dead rows; the outbox takes {mib:.0f} MiB")]

    @_check("cluster", "rows and cursor of another cluster", "outbox")
    async def _cluster(self) -> list[Seen]:
        if not (await self.row())["same_cluster"]:
            seen = "the outbox came from another cluster: the next term publishes all of it again"
            remedy = "delete what is delivered first: see sql/README.md, Dump and restore"
            return [warning(seen, remedy)]
        if await self.rows("foreign_rows"):
            seen = "the outbox holds rows with transaction ids that this cluster has not reached"
            return [warning(seen, "nothing: the next term takes them in, and publishes them")]
        return [ok("rows and cursor are this cluster's own")]

    @_check("subjects", "those of the newest events", "outbox")
    async def _subjects(self) -> list[Seen]:
        found = [str(row["subject"]) for row in await self.rows("doctor_subjects")]
        self.newest_subjects = found
        self.looked.set()
        return [ok(f"{len(found)} among the newest events")]

    @_check("retention", "how long delivered events stay")
    async def _retention(self) -> list[Seen]:
        kept = self.settings.retention
        if kept < SYNCED_WITHIN:
            seen = (
                f"delivered events are kept for {lasting(kept)}, and JetStream syncs to disk every"
                f" {lasting(SYNCED_WITHIN)} unless told otherwise: a power cut can lose both copies"
            )
            remedy = "set RELAY_RETENTION to 15min, or sync_interval: always in nats-server"
            return [warning(seen, remedy)]
        return [ok(f"{lasting(kept)}, longer than JetStream's sync interval of 2 minutes")]


def _reason(reason: Reason) -> Seen:
    held = f"held by {reason.held_by}" if reason.held_by else "refused, and tried again"
    state = "dead" if reason.dead else held
    number = f"{reason.events} event{'s' * (reason.events != 1)}"
    seen = f"{number} {state}, the first is {reason.first_id}: {reason.error}"
    remedy = f"python -m relay dead show {reason.first_id}"
    if reason.code:
        code = code_of(reason.code, reason.error)
        seen, remedy = f"{seen}; {code.meaning}", f"{code.remedy}; {remedy}"
    return warning(seen, remedy)


def _transaction(row: dict[str, Any]) -> Seen:
    age = lasting(row["age"])
    if row["kind"] == "prepared":
        name = sql.Literal(row["name"]).as_string()
        seen = f"the prepared transaction {name} of {row['login']} is open for {age}"
        return warning(seen, f"commit prepared {name}, or: rollback prepared {name}")
    seen = (
        f"pid {row['name']}, login {row['login']}, application {row['application']!r} is in a"
        f" transaction for {age} ({row['state']}): its own events wait, and vacuum does"
    )
    return warning(seen, f"end it: {_END.format(row['name'])}")
