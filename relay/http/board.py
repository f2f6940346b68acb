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

from relay.http.feed import Feed
from relay.http.health import Outage, Role
from relay.http.history import Past, Point
from relay.http.lookout import Lookout, Sight
from relay.http.seen import Seen
from relay.http.verdict import Elsewhere, Verdict, judge
from relay.postgres.operator import ParkedEvent, ParkedKey
from relay.state import Metrics

EVERY: Final = 1.0
_FRESH: Final = 10.0
"""Seconds for which a look at the database counts as the present."""

_MOST_TEXT: Final = 500


class Board:
    """Makes the snapshots."""

    def __init__(
        self,
        seen: Seen,
        lookout: Lookout,
        feed: Feed,
        *,
        stream: str | None,
        can_retry: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Show what is ``seen`` to the watchers of ``feed``.

        Args:
            seen: the relay.
            lookout: what the database knows.
            feed: who watches.
            stream: the configured stream, shown before a path to it is known.
            can_retry: whether there is a token for it.
            clock: epoch s.
        """
        self._relay = seen.relay
        self._health = seen.health
        self._latency = seen.latency
        self._lookout = lookout
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
        metrics, sight = self._relay.metrics(), self._sight()
        figures = self._figures(metrics, sight)
        verdict = self._judge(figures, sight)
        return {
            "at": self._clock(),
            "level": verdict.level,
            "headline": verdict.headline,
            "reasons": verdict.reasons,
            "role": self._health.role,
            "checks": [
                {"name": check.name, "ok": check.ok, "reason": check.reason}
                for check in self._health.checks()
            ],
            "point": self._point.as_list() if self._point else None,
            "figures": figures,
            "relays": self._relays(sight),
            "streams": self._streams(),
            "letters": self._letters(sight),
            "can_retry": self._can_retry,
        }

    def _sample(self) -> Point:
        metrics, sight = self._relay.metrics(), self._sight()
        figures = self._figures(metrics, sight)
        rate: float | None = (metrics["delivered"] - self._delivered) / EVERY
        self._delivered = metrics["delivered"]
        if self._health.role is Role.STANDBY:
            rate = sight.rate if sight else None
        latency, slowest = self._latency.take()
        level = self._judge(figures, sight).level
        return Point(self._clock(), rate, figures["lag"], latency, slowest, level)

    def _sight(self) -> Sight | None:
        """Return the last look if it is still the present."""
        sight = self._lookout.sight
        return sight if sight is not None and self._lookout.age(sight) < _FRESH else None

    def _judge(self, figures: Mapping[str, Any], sight: Sight | None) -> Verdict:
        dead, parked = figures["dead"] or 0, figures["parked"] or 0
        return judge(self._health, dead=dead, parked=parked, elsewhere=self._elsewhere(sight))

    def _elsewhere(self, sight: Sight | None) -> Elsewhere:
        if self._health.role is not Role.STANDBY or sight is None or not sight.outbox["led"]:
            return Elsewhere()
        return Elsewhere(
            sight.outbox["lag_breaker"] == "open", sight.outbox["bus_breaker"] == "open"
        )

    def _figures(self, metrics: Metrics, sight: Sight | None) -> dict[str, Any]:
        """Return the leader's own figures; else the database's, or None for what nobody knows."""
        counts = {name: metrics[name] for name in ("delivered", "duplicates", "retries")}
        if self._health.role is Role.LEADER:
            return counts | {
                "lag": metrics["delivery_lag_seconds"],
                "waiting": metrics["undelivered"],
                "parked": metrics["parked"],
                "dead": metrics["dead"],
            }
        if sight is None:
            return counts | dict.fromkeys(("lag", "waiting", "parked", "dead"))
        return counts | {
            "lag": sight.outbox["lag_seconds"],
            "waiting": sight.outbox["backlog"],
            "parked": sight.outbox["parked"],
            "dead": sight.outbox["dead"],
        }

    def _relays(self, sight: Sight | None) -> dict[str, Any]:
        """Return who is who: of the others what the database says, None if it was not asked."""
        leading = self._health.role is Role.LEADER
        row = sight.outbox if sight is not None else {}
        led = row.get("led", False)
        epoch = self._health.epoch if leading else row.get("epoch")
        standbys = None
        if sight is not None:
            standbys = [
                {"pid": each.pid, "address": each.address, "since": _instant(each.since)}
                for each in sight.standbys
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

    def _letters(self, sight: Sight | None) -> dict[str, Any]:
        last = sight or self._lookout.sight
        return {
            "age": None if last is None else round(self._lookout.age(last), 1),
            "trouble": self._lookout.trouble,
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


def _why(hold: Outage | None) -> str | None:
    return None if hold is None else _cut(hold.why)


def _instant(at: datetime | str | None) -> str | None:
    return at.astimezone(UTC).isoformat() if isinstance(at, datetime) else at


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 1]}…"
