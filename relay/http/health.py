"""How this relay is doing: the conditions of being ready, and whether its event loop turns.

``relay.state`` is authoritative; nothing is asked for. A relay is ready while it leads with
Postgres and NATS connected and the lag within its limit, or while it stands by.

A driver's error text names hosts, ports, logins and databases, and whoever reaches the port may
read a health answer. So that text is not passed on: ``reason_of`` picks a sentence for it, and the
log has the text itself.
"""

import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from statistics import median
from typing import Final, NamedTuple

from relay.core.backoff import State
from relay.facts import Fact, PageDelivered
from relay.state import Ongoing, RelayState, Role

STALE_AFTER: Final = 5.0
"""Seconds without a turn of the event loop after which a restart is worth it."""

SCHEMA: Final = "the schema is not as this relay requires: run `python -m relay migrate`"
LEASE: Final = "the lease is held by a session that is no relay's; the log names it"
UNKNOWN: Final = "the log has the reason"

_SIGNS: Final = {
    SCHEMA: r"python -m relay migrate",
    LEASE: r"\blease\b.*\bis no relay",
    "its login may not do this": r"grant this login|permission denied|permissions violation",
    "it refuses the login": (
        r"authentication (failed|expired|revoked)|authorization violation|no password supplied"
        r"|role .* (does not exist|is not permitted)|pg_hba\.conf|database .* does not exist"
        r"|credentials|no such (user|database)"
    ),
    "connection refused": r"connection refused|connect call failed",
    "it is starting up": r"starting up|not yet accepting|in recovery mode",
    "it is shutting down": r"shutting down|lame duck",
    "it is read-only: a standby, or a demoted primary": r"read-only|standby",
    "it has no connection left for us": r"too many (clients|connections)|connection slots",
    "its name can't be resolved": (
        r"could not translate host name|name or service not known|nodename nor servname"
        r"|name resolution|getaddrinfo"
    ),
    "the network does not reach it": r"no route to host|(network|host) is (unreachable|down)",
    "no encrypted connection comes about": r"certificate|\bssl\b|\btls\b",
    "the stream is missing": r"there is no stream",
    "it does not answer": (
        r"(did|does) not answer|no answer|no connection within|time(d )?-?out|timeout expired|stale"
    ),
    "the connection was cut": (
        r"closed the connection|terminating connection|connection (is )?(closed|lost|reset)"
        r"|broken pipe|consuming input failed|\beof\b"
    ),
}
_PATTERNS: Final = {re.compile(signs, re.IGNORECASE): text for text, signs in _SIGNS.items()}


@lru_cache(maxsize=100)
def reason_of(error: str) -> str:
    """Return the sentence for a driver's error text: of those that fit, the first."""
    return next((text for signs, text in _PATTERNS.items() if signs.search(error)), UNKNOWN)


class Check(NamedTuple):
    """One condition of being ready."""

    name: str
    ok: bool
    reason: str


class Latency:
    """A sink of facts: how old the oldest event of each page was when it was acknowledged.

    Measured between the database's clock and this machine's: as good as the two agree.
    """

    def __init__(self) -> None:
        """Start without a sample."""
        self._samples: deque[float] = deque(maxlen=1_000)

    def record(self, fact: Fact) -> None:
        """Add a delivered page; of more than a thousand, the last thousand count."""
        if type(fact) is PageDelivered and fact.delivered:
            age = (datetime.now(UTC) - fact.oldest_at).total_seconds()
            self._samples.append(max(0.0, age))

    def take(self) -> tuple[float | None, float | None]:
        """Return median and maximum in s, and start anew."""
        samples = list(self._samples)
        self._samples.clear()
        return (median(samples), max(samples)) if samples else (None, None)


class Health:
    """The conditions of being ready, and whether the event loop turns."""

    def __init__(self, state: RelayState, now: Callable[[], float] = time.monotonic) -> None:
        """Judge ``state``, on its monotonic clock."""
        self.state = state
        self._now = now
        self._turned_at = now()

    def turn(self) -> None:
        """Take note that the event loop turns. No outage keeps it from turning."""
        self._turned_at = self._now()

    @property
    def last_turn_ago(self) -> float:
        """Seconds since the event loop turned."""
        return self._now() - self._turned_at

    @property
    def is_alive(self) -> bool:
        """Whether the loop has turned lately; a loop that is stuck at present answers nothing."""
        return self.last_turn_ago < STALE_AFTER

    @property
    def is_ready(self) -> bool:
        """Whether every condition is met."""
        return all(check.ok for check in self.checks())

    @property
    def lease_is_taken(self) -> bool:
        """Whether the lock of the lease is held by a session that is no relay's."""
        return self._postgres_reason == LEASE

    @property
    def lag_is_high(self) -> bool:
        """Whether the lag breaker is open."""
        return self.state.breakers["lag"] is State.OPEN

    def away(self, side: str) -> str:
        """Say for how long an outage under way has lasted, and why."""
        outage = self.state.outages[side]
        return f"away for {self.time_of(outage)}: {reason_of(outage.reason)}"

    def time_of(self, ongoing: Ongoing) -> str:
        """Say for how long something has lasted."""
        minutes, seconds = divmod(int(self._now() - ongoing.since), 60)
        hours, minutes = divmod(minutes, 60)
        if hours:
            return f"{hours} h {minutes} min"
        return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"

    def checks(self) -> Sequence[Check]:
        """Return every condition with its reason, in the order in which they are met at a start."""
        return (
            Check("postgres", *self._postgres()),
            Check("schema", *self._schema()),
            Check("lease", *self._lease()),
            Check("nats", *self._nats()),
            Check("lag", *self._lag()),
        )

    @property
    def _postgres_reason(self) -> str:
        outage = self.state.outages.get("postgres")
        return reason_of(outage.reason) if outage else ""

    def _postgres(self) -> tuple[bool, str]:
        if self._postgres_reason in {SCHEMA, LEASE}:
            return True, "answers"
        if self._postgres_reason:
            return False, self.away("postgres")
        return (True, "answers") if self.state.holder else (False, "not reached yet")

    def _schema(self) -> tuple[bool, str]:
        if self._postgres_reason == SCHEMA:
            return False, SCHEMA
        return (True, "as required") if self.state.holder else (False, "not looked at yet")

    def _lease(self) -> tuple[bool, str]:
        if self.lease_is_taken:
            return False, f"for {self.time_of(self.state.outages['postgres'])} {LEASE}"
        match self.state.role:
            case Role.LEADER:
                return True, f"leading, epoch {self.state.epoch}"
            case Role.STANDBY:
                return True, "standing by: another relay leads"
            case Role.STOPPING:
                return False, "stopping"
            case Role.BETWEEN:
                return False, "the last term is over, the next one has not begun"
            case Role.STARTING:
                return False, "neither leading nor standing by yet"

    def _nats(self) -> tuple[bool, str]:
        if "nats" in self.state.outages:
            return False, self.away("nats")
        if self.state.role is Role.STANDBY:
            return True, "not asked while standing by"
        if self.state.connected:
            return True, "connected"
        is_leader = self.state.role is Role.LEADER
        return (False, "connecting") if is_leader else (True, "not asked yet")

    def _lag(self) -> tuple[bool, str]:
        if self.state.looks_fail and (failing := self.state.housekeeping):
            return False, f"not known for {self.time_of(failing)}: {reason_of(failing.reason)}"
        if not self.lag_is_high:
            return True, "within its limit"
        lag = self.state.backlog.lag
        return False, f"the breaker is open: the oldest event waits for {lag:.1f} s"
