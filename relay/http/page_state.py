"""The snapshot: once a second, everything the page shows, made once for everybody.

Sampling goes on while nobody watches, so that whoever comes sees the last five minutes; only the
writing of the message is left out then. On a standby the figures are the database's, as far as
somebody watches; the leader's own are fresher.
"""

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import anyio

from relay.http.database import Database, LookUp
from relay.http.feed import Feed
from relay.http.health import Failure, Role
from relay.http.history import Past, Point
from relay.http.seen import Seen
from relay.http.summary import LeaderReport, Summary, summarize
from relay.meter import Metrics
from relay.postgres.operator import ParkedEvent, ParkedKey

EVERY: Final = 1.0
_FRESH: Final = 10.0
"""Seconds for which a look at the database counts as the present."""

_MOST_TEXT: Final = 500


class PageState:
    """Makes the snapshots."""

    def __init__(
        self,
        seen: Seen,
        database: Database,
        feed: Feed,
        *,
        stream: str | None,
        can_retry: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Show what is ``seen`` to the watchers of ``feed``.

        Args:
            seen: the relay.
            database: what the database knows.
            feed: who watches.
            stream: the configured stream, shown before a path to it is known.
            can_retry: whether there is a token for it.
            clock: epoch s.
        """
        self._relay = seen.relay
        self._health = seen.health
        self._latency = seen.latency
        self._database = database
        self._feed = feed
        self._stream = stream
        self._can_retry = can_retry
        self._clock = clock
        self._history = Past()
        self._delivered = 0
        self._point: Point | None = None
        self._hello: bytes | None = None

    async def run(self) -> None:
        """Sample, and tell who watches, until cancelled."""
        due = anyio.current_time()
        while True:
            self.tick()
            due = max(due + EVERY, anyio.current_time())
            await anyio.sleep_until(due)

    def tick(self) -> None:
        """Take one sample and tell it."""
        self._point = self._sample()
        self._history.add(self._point)
        self._hello = None
        if self._feed.watched:
            self._feed.send(_event("state", self.snapshot()))

    def hello(self) -> bytes:
        """Return what a newcomer is told first: the history, and the present."""
        if self._hello is None:
            past = {"history": [point.as_list() for point in self._history.points()]}
            self._hello = _event("history", past) + _event("state", self.snapshot())
        return self._hello

    def snapshot(self) -> dict[str, Any]:
        """Return everything the page shows, as plain values."""
        metrics, look_up = self._relay.metrics(), self._look_up()
        figures = self._figures(metrics, look_up)
        summary = self._summarize(figures, look_up)
        return {
            "at": self._clock(),
            "level": summary.level,
            "headline": summary.headline,
            "reasons": summary.reasons,
            "role": self._health.role,
            "checks": [
                {"name": check.name, "ok": check.ok, "reason": check.reason}
                for check in self._health.checks()
            ],
            "point": self._point.as_list() if self._point else None,
            "figures": figures,
            "relays": self._relays(look_up),
            "streams": self._streams(),
            "letters": self._letters(look_up),
            "can_retry": self._can_retry,
        }

    def _sample(self) -> Point:
        metrics, look_up = self._relay.metrics(), self._look_up()
        figures = self._figures(metrics, look_up)
        rate: float | None = (metrics["delivered"] - self._delivered) / EVERY
        self._delivered = metrics["delivered"]
        if self._health.role is Role.STANDBY:
            rate = look_up.rate if look_up else None
        latency, slowest = self._latency.take()
        level = self._summarize(figures, look_up).level
        return Point(self._clock(), rate, figures["lag"], latency, slowest, level)

    def _look_up(self) -> LookUp | None:
        """Return the last look if it is still the present."""
        look_up = self._database.look_up
        return look_up if look_up is not None and self._database.age(look_up) < _FRESH else None

    def _summarize(self, figures: Mapping[str, Any], look_up: LookUp | None) -> Summary:
        dead, parked = figures["dead"] or 0, figures["parked"] or 0
        return summarize(self._health, dead=dead, parked=parked, report=self._report(look_up))

    def _report(self, look_up: LookUp | None) -> LeaderReport:
        if self._health.role is not Role.STANDBY or look_up is None or not look_up.outbox["led"]:
            return LeaderReport()
        return LeaderReport(
            look_up.outbox["lag_breaker"] == "open", look_up.outbox["bus_breaker"] == "open"
        )

    def _figures(self, metrics: Metrics, look_up: LookUp | None) -> dict[str, Any]:
        """Return the leader's own figures; else the database's, or None for what nobody knows."""
        counts = {name: metrics[name] for name in ("delivered", "duplicates", "retries")}
        if self._health.role is Role.LEADER:
            return counts | {
                "lag": metrics["delivery_lag_seconds"],
                "waiting": metrics["undelivered"],
                "parked": metrics["parked"],
                "dead": metrics["dead"],
            }
        if look_up is None:
            return counts | dict.fromkeys(("lag", "waiting", "parked", "dead"))
        return counts | {
            "lag": look_up.outbox["lag_seconds"],
            "waiting": look_up.outbox["backlog"],
            "parked": look_up.outbox["parked"],
            "dead": look_up.outbox["dead"],
        }

    def _relays(self, look_up: LookUp | None) -> dict[str, Any]:
        """Return who is who: of the others what the database says, None if it was not asked."""
        leading = self._health.role is Role.LEADER
        row = look_up.outbox if look_up is not None else {}
        led = row.get("led", False)
        epoch = self._health.epoch if leading else row.get("epoch")
        standbys = None
        if look_up is not None:
            standbys = [
                {"pid": each.pid, "address": each.address, "since": _instant(each.since)}
                for each in look_up.standbys
            ]
        return {
            "this": self._health.holder or None,
            "leads": leading,
            "leader": self._health.holder if leading else row["holder"] if led else None,
            "epoch": epoch,
            "since": _instant(row["term_began_at"]) if led and row["epoch"] == epoch else None,
            "standbys": standbys,
        }

    def _streams(self) -> list[dict[str, Any]]:
        """Return every stream met, and whatever takes nothing at present."""
        paths: dict[str, str | None] = dict(self._relay.paths)
        if self._stream is not None:
            paths.setdefault(self._stream, None)
        holds = dict(self._health.holds)
        streams = [
            {"name": name, "path": path, "trouble": _why(holds.pop(f"stream {name}", None))}
            for name, path in sorted(paths.items())
        ]
        return streams + [
            {"name": by, "path": None, "trouble": _why(hold)} for by, hold in sorted(holds.items())
        ]

    def _letters(self, look_up: LookUp | None) -> dict[str, Any]:
        last = look_up or self._database.look_up
        return {
            "age": None if last is None else round(self._database.age(last), 1),
            "trouble": self._database.trouble,
            "total": last.dead.total if last else 0,
            "dead": [_dead(event) for event in last.dead.events] if last else [],
            "keys": [_key(key) for key in last.keys] if last else [],
        }


def _event(name: str, content: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(content, separators=(',', ':'))}\n\n".encode()


def _dead(event: ParkedEvent) -> dict[str, Any]:
    return {
        "id": str(event.id),  # a bigint is more than a number of JavaScript holds
        "subject": _cut(event.subject),
        "key": None if event.key is None else _cut(event.key),
        "attempts": event.attempts,
        "died_at": _instant(event.dead_at),
        "error": _cut(event.error),
        "code": event.code or None,
    }


def _key(key: ParkedKey) -> dict[str, Any]:
    return {
        "key": None if key.key is None else _cut(key.key),
        "events": key.events,
        "id": str(key.id),
        "subject": _cut(key.subject),
        "attempts": key.attempts,
        "next_at": _instant(key.next_attempt_at),
        "held_by": key.held_by or None,
        "error": _cut(key.error),
    }


def _why(hold: Failure | None) -> str | None:
    return None if hold is None else _cut(hold.why)


def _instant(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat()


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 1]}…"
