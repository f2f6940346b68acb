"""How this relay stands, added up from its facts: for probes, for people, for systemd.

    starting ──► leader ⇄ between terms ⇄ standby          any ──stop──► stopping

Who is right: the facts, told on the loop as they happen; nobody is asked. Ready means that it does
what it is there for: leading with Postgres and NATS at hand and the lag within its limit, or
standing by. No reason holds a word of the configuration: see ``reasons``.
"""

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from relay.core.breakers import State
from relay.facts import (
    BacklogSeen,
    BreakerChanged,
    BusConnected,
    Fact,
    HoldBegan,
    HoldEnded,
    HousekeepingFailed,
    OutageBegan,
    OutageEnded,
    StandingBy,
    TermBegan,
    TermEnded,
)
from relay.http import reasons

NAMES: Final = {"postgres": "Postgres", "nats": "NATS"}


class Role(enum.StrEnum):
    """What this relay is at present."""

    STARTING = "starting"
    LEADER = "leader"
    STANDBY = "standby"
    BETWEEN = "between terms"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Failure:
    """A side, a stream or the housekeeping since it failed; ``since`` on the monotonic clock."""

    since: float
    why: str


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of being ready."""

    name: str
    ok: bool
    reason: str


class Health:
    """A sink of facts. Call ``record`` with each; read it at any time, on the same loop.

    Attributes:
        role: what this relay is.
        holder: the name under which it stands for election; "" before the first try.
        epoch: its term's; 0 before the first one.
        outages: those under way, by "postgres" and "nats".
        holds: streams that take nothing, by name.
        housekeeping: why pruning or looking at the backlog failed last, until it works again.
        lag: s, as the leader saw it last.
        lag_is_high: the lag breaker is open.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Begin as starting, on the clock ``now``."""
        self._now = now
        self._known = False
        self._connected = False
        self.role = Role.STARTING
        self.holder = ""
        self.epoch = 0
        self.outages: dict[str, Failure] = {}
        self.holds: dict[str, Failure] = {}
        self.housekeeping: Failure | None = None
        self.lag = 0.0
        self.lag_is_high = False
        self._hear: dict[type[Fact], Callable[[Any], None]] = {
            TermBegan: self._lead,
            StandingBy: self._stand_by,
            TermEnded: self._end_term,
            OutageBegan: self._lose,
            OutageEnded: self._regain,
            BusConnected: self._connect,
            HoldBegan: self._hold,
            HoldEnded: self._release,
            BreakerChanged: self._switch,
            BacklogSeen: self._see,
            HousekeepingFailed: self._fail_at_home,
        }

    def record(self, fact: Fact) -> None:
        """Take note of one fact; most of them are none of ours."""
        hear = self._hear.get(type(fact))
        if hear is not None:
            hear(fact)

    def stop(self) -> None:
        """Take note that the relay is to stop."""
        self.role = Role.STOPPING

    @property
    def ready(self) -> bool:
        """Whether every condition is met."""
        return all(check.ok for check in self.checks())

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
    def lease_is_taken(self) -> bool:
        """Whether the lock of the lease is held by somebody who is no relay."""
        return self._answers(reasons.LEASE)

    def away(self, side: str) -> str:
        """Say of an outage under way since when it lasts, and why."""
        outage = self.outages[side]
        return f"away for {self.seconds(outage)}: {outage.why}"

    def seconds(self, outage: Failure) -> str:
        """Say how long it lasts."""
        whole = int(self._now() - outage.since)
        minutes, seconds = divmod(whole, 60)
        hours, minutes = divmod(minutes, 60)
        if hours:
            return f"{hours} h {minutes} min"
        return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"

    # The conditions.

    def _answers(self, why: str) -> bool:
        """Say whether Postgres answers, and this is what is wrong there."""
        outage = self.outages.get("postgres")
        return outage is not None and outage.why == why

    def _postgres(self) -> tuple[bool, str]:
        if self._answers(reasons.SCHEMA) or self.lease_is_taken:
            return True, "answers"
        if "postgres" in self.outages:
            return False, self.away("postgres")
        return (True, "answers") if self._known else (False, "not reached yet")

    def _schema(self) -> tuple[bool, str]:
        if self._answers(reasons.SCHEMA):
            return False, reasons.SCHEMA
        return (True, "as required") if self._known else (False, "not looked at yet")

    def _lease(self) -> tuple[bool, str]:
        if self.lease_is_taken:
            return False, f"for {self.seconds(self.outages['postgres'])} {reasons.LEASE}"
        match self.role:
            case Role.LEADER:
                return True, f"leading, epoch {self.epoch}"
            case Role.STANDBY:
                return True, "standing by: another relay leads"
            case Role.STOPPING:
                return False, "stopping"
            case Role.BETWEEN:
                return False, "the last term is over, the next one has not begun"
            case _:
                return False, "neither leading nor standing by yet"

    def _nats(self) -> tuple[bool, str]:
        if "nats" in self.outages:
            return False, self.away("nats")
        if self.role is Role.STANDBY:
            return True, "not asked while standing by"
        if self._connected:
            return True, "connected"
        return (False, "connecting") if self.role is Role.LEADER else (True, "not asked yet")

    def _lag(self) -> tuple[bool, str]:
        if self.lag_is_high:
            return False, f"the breaker is open: the oldest event waits for {self.lag:.1f} s"
        return True, "within its limit"

    # The facts.

    def _lead(self, fact: TermBegan) -> None:
        self._known = True
        self.holder, self.epoch = fact.holder, fact.epoch
        self._become(Role.LEADER)

    def _stand_by(self, fact: StandingBy) -> None:
        self._known = True
        self.holder = fact.holder
        self.outages.pop("nats", None)
        self.lag = 0.0
        self._become(Role.STANDBY)

    def _end_term(self, _: TermEnded) -> None:
        self._connected = False
        self.holds.clear()
        self.housekeeping = None
        self._become(Role.BETWEEN)

    def _become(self, role: Role) -> None:
        if self.role is not Role.STOPPING:
            self.role = role

    def _lose(self, fact: OutageBegan) -> None:
        self.outages[fact.side] = Failure(self._now(), reasons.why(fact.reason))

    def _regain(self, fact: OutageEnded) -> None:
        self.outages.pop(fact.side, None)

    def _connect(self, _: BusConnected) -> None:
        self._connected = True

    def _hold(self, fact: HoldBegan) -> None:
        self.holds[fact.by] = Failure(self._now(), fact.reason)

    def _release(self, fact: HoldEnded) -> None:
        self.holds.pop(fact.by, None)

    def _switch(self, fact: BreakerChanged) -> None:
        if fact.breaker == "lag":
            self.lag_is_high = fact.state is State.OPEN

    def _see(self, fact: BacklogSeen) -> None:
        self.lag = fact.backlog.lag
        self.housekeeping = None

    def _fail_at_home(self, fact: HousekeepingFailed) -> None:
        self.housekeeping = Failure(self._now(), reasons.why(fact.reason))
