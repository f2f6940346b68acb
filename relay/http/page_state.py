"""What the page shows: made once a second for every watcher, with a history of five minutes.

Points are taken while nobody watches as well, so that a newcomer sees the last five minutes. On a
standby the figures are the database's, which is asked only while somebody watches; the leader's own
figures are fresher.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import anyio

from relay.app import Relay
from relay.http.database import Database, LookUp
from relay.http.feed import Feed
from relay.http.health import Health, Latency
from relay.http.summary import LeaderReport, Level, Summary, summarize
from relay.postgres.operator import ParkedEvent, ParkedKey
from relay.settings import Settings
from relay.state import Role

POINTS: Final = 300
_EVERY: Final = 1.0
_MOST_TEXT: Final = 500


class Point(NamedTuple):
    """One second of the history; a busy loop makes it longer or shorter.

    Attributes:
        at: its end, epoch s.
        rate: events/s since the point before; None if not known.
        lag: s; None if not known.
        latency: s from writing an event to its acknowledgement, the median of the pages; None if
            no page was delivered.
        slowest: the same of the slowest page.
        level: how bad the state was.
    """

    at: float
    rate: float | None
    lag: float | None
    latency: float | None
    slowest: float | None
    level: Level


class PageState:
    """Makes the messages for the watchers of a feed."""

    def __init__(
        self,
        relay: Relay,
        health: Health,
        latency: Latency,
        *,
        database: Database,
        feed: Feed,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show ``relay`` to ``feed``'s watchers; ``clock`` gives epoch s, ``now`` monotonic s."""
        self._relay = relay
        self._health = health
        self._latency = latency
        self._database = database
        self._feed = feed
        self._settings = settings
        self._clock = clock
        self._now = now
        self._points: deque[Point] = deque(maxlen=POINTS)
        self._counted: tuple[float, int] | None = None
        """When the last point was taken, and how many events were delivered by then."""
        self._greeting = b""

    async def run(self) -> None:
        """Tick once a second until cancelled."""
        due = anyio.current_time()
        while True:
            self.tick()
            # Behind a late tick the next one is early, but no rate is of a mere moment.
            due = max(due + _EVERY, anyio.current_time() + _EVERY / 2)
            await anyio.sleep_until(due)

    def tick(self) -> None:
        """Take the next point, and send the watchers what the page shows."""
        self._points.append(self._point())
        self._greeting = b""
        if self._feed.watched:
            self._feed.send(_event("state", self._state()))

    def greeting(self) -> bytes:
        """Return a newcomer's first message: the history and the present."""
        if not self._greeting:
            history = {"history": list(self._points)}
            self._greeting = _event("history", history) + _event("state", self._state())
        return self._greeting

    def _state(self) -> dict[str, Any]:
        look_up = self._database.present
        figures = self._figures(look_up)
        return {
            "at": self._clock(),
            **self._summary(figures, look_up)._asdict(),
            "role": self._health.state.role,
            "checks": [check._asdict() for check in self._health.checks()],
            "point": self._points[-1] if self._points else None,
            "figures": figures,
            "relays": self._relays(look_up),
            "streams": self._streams(),
            "parked": self._parked(),
            "can_retry": self._settings.http_token is not None,
        }

    def _point(self) -> Point:
        look_up = self._database.present
        figures = self._figures(look_up)
        rate = self._rate(figures["delivered"])
        if self._health.state.role is Role.STANDBY:
            rate = look_up.rate if look_up else None
        latency, slowest = self._latency.take()
        return Point(
            round(self._clock(), 3),
            _rounded(rate, 1),
            _rounded(figures["lag"], 3),
            _rounded(latency, 5),
            _rounded(slowest, 5),
            self._summary(figures, look_up).level,
        )

    def _rate(self, delivered: int) -> float | None:
        """Count ``delivered`` events by now; return the events/s since the last count."""
        now, last = self._now(), self._counted
        self._counted = now, delivered
        if last is None or now <= last[0]:
            return None
        return (delivered - last[1]) / (now - last[0])

    def _summary(self, figures: Mapping[str, Any], look_up: LookUp | None) -> Summary:
        dead, parked = figures["dead"] or 0, figures["parked"] or 0
        report = self._leader_report(look_up)
        metrics = self._relay.metrics()
        counts = {name: metrics[name] for name in ("repaired", "lost")}
        size = look_up.size if look_up else None
        return summarize(
            self._health, dead=dead, parked=parked, report=report, outbox=size, **counts
        )

    def _leader_report(self, look_up: LookUp | None) -> LeaderReport:
        row = look_up.outbox if look_up else {}
        if self._health.state.role is not Role.STANDBY or not row.get("led"):
            return LeaderReport()
        return LeaderReport(row["lag_breaker"] == "open", row["bus_breaker"] == "open")

    def _figures(self, look_up: LookUp | None) -> dict[str, Any]:
        """Return the leader's own figures; else the database's, or None if they are not known."""
        metrics = self._relay.metrics()
        figures: dict[str, Any] = {
            "delivered": metrics["delivered"],
            "duplicates": metrics["duplicates"],
            "retries": metrics["retries"],
        }
        if self._health.state.role is Role.LEADER:
            return figures | {
                "lag": metrics["delivery_lag_seconds"],
                "waiting": metrics["undelivered"],
                "parked": metrics["parked"],
                "dead": metrics["dead"],
            }
        row = look_up.outbox if look_up else {}
        return figures | {
            "lag": row.get("lag_seconds"),
            "waiting": row.get("backlog"),
            "parked": row.get("parked"),
            "dead": row.get("dead"),
        }

    def _relays(self, look_up: LookUp | None) -> dict[str, Any]:
        """Return who leads and who stands by; ``standbys`` is None without a look-up."""
        state, row = self._health.state, look_up.outbox if look_up else {}
        leads, led = state.role is Role.LEADER, row.get("led", False)
        epoch = state.epoch if leads else row.get("epoch")
        return {
            "this": state.holder or None,
            "leads": leads,
            "leader": state.holder if leads else row["holder"] if led else None,
            "epoch": epoch,
            "since": _instant(row["term_began_at"]) if led and row["epoch"] == epoch else None,
            "standbys": look_up
            and [
                {"pid": each.pid, "address": each.address, "since": _instant(each.since)}
                for each in look_up.standbys
            ],
        }

    def _streams(self) -> list[dict[str, Any]]:
        """Return every stream met, and whatever takes nothing at present."""
        paths: dict[str, str | None] = dict(self._relay.paths)
        if self._settings.stream is not None:  # shown before it is published to as well
            paths.setdefault(self._settings.stream, None)
        troubles = {by: _cut(hold.reason) for by, hold in self._health.state.holds.items()}
        streams = [
            {"name": name, "path": path, "trouble": troubles.pop(f"stream {name}", None)}
            for name, path in sorted(paths.items())
        ]
        return streams + [
            {"name": by, "path": None, "trouble": trouble}
            for by, trouble in sorted(troubles.items())
        ]

    def _parked(self) -> dict[str, Any]:
        last, age = self._database.last, self._database.age
        return {
            "age": _rounded(age, 1),
            "trouble": self._database.trouble,
            "total_dead": last.dead.total if last else 0,
            "dead": [_dead_event(event) for event in last.dead.events] if last else [],
            "keys": [_parked_key(key) for key in last.keys] if last else [],
        }


def _dead_event(event: ParkedEvent) -> dict[str, Any]:
    return {
        "id": str(event.id),  # a bigint is more than a number of JavaScript holds
        "subject": _cut(event.subject),
        "key": _cut(event.key),
        "attempts": event.attempts,
        "died_at": _instant(event.dead_at),
        "error": _cut(event.error),
        "code": event.code or None,
    }


def _parked_key(key: ParkedKey) -> dict[str, Any]:
    return {
        "key": _cut(key.key),
        "events": key.events,
        "id": str(key.id),
        "subject": _cut(key.subject),
        "attempts": key.attempts,
        "next_at": _instant(key.next_attempt_at),
        "held_by": key.held_by or None,
        "error": _cut(key.error),
    }


def _event(name: str, content: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(content, separators=(',', ':'))}\n\n".encode()


def _instant(at: datetime | str | None) -> str | None:
    return at.astimezone(UTC).isoformat() if isinstance(at, datetime) else at


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 1]}…"
