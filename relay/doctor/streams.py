"""The checks of the streams that the relay publishes to, and of publishing itself.

Which streams: RELAY_STREAM's; else those that capture the newest events' subjects; else all, as far
as ``MOST``. What decides is what the relay itself goes by: ``setup`` for the configured stream,
``routing`` for a subject's stream, ``weaknesses`` for what a stream puts at risk.

Publishing is tried on request only, by a message that no stream can store: it expects a stream
whose name can't exist. Whoever subscribes to the subject by plain NATS receives it, empty.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Final

import anyio

from relay.core.durations import lasting
from relay.core.subjects import matches
from relay.doctor import nats
from relay.doctor.nats import ALMOST, ASK_WITHIN, Broker
from relay.doctor.postgres import clocks_apart
from relay.doctor.report import Seen, check, fault, ok, skipped, warning
from relay.errors import StreamError
from relay.jetstream.answers import Json, whole
from relay.jetstream.api import (
    DeniedError,
    NoAnswerError,
    RejectedError,
    StreamInfo,
    read_stream_info,
)
from relay.jetstream.codes import code_of
from relay.jetstream.routing import Routing
from relay.jetstream.setup import ensure_stream
from relay.jetstream.streams import Stream, Streams
from relay.jetstream.weaknesses import Weakness, weaknesses

MOST: Final = 10
"""Streams, and subjects, that are looked at."""

SUBJECTS_WITHIN: Final = 2.5
"""Seconds to wait until Postgres has named the newest events' subjects."""

TAKE_OVER: Final = 10.0
"""Seconds from the end of a lease until the next leader publishes, at most."""

NO_SUCH_STREAM: Final = 10060
_EXPECTING_NONE: Final = b"NATS/1.0\r\nNats-Expected-Stream: no.such.stream\r\n\r\n"
"""A stream's name has no dot."""


CHECKS: Final = [*nats.CHECKS]
_check = partial(check, CHECKS)


class Publishing(Broker):
    """The streams, as one look found them."""

    infos: Mapping[str, StreamInfo] = {}
    raw: Mapping[str, Json] = {}
    answered_at: datetime | None = None
    away: Collection[str] = ()  # streams without a leader, and offline ones
    is_to_be_made = False

    @_check(
        "stream",
        "which streams are published to, and what they capture",
        "jetstream",
        deadline=SUBJECTS_WITHIN + ASK_WITHIN,
    )
    async def _stream(self) -> list[Seen]:
        with anyio.move_on_after(SUBJECTS_WITHIN):
            await self.database.looked.wait()
        name = self.options.stream
        if name is not None:
            try:
                await ensure_stream(self.api, self.options, self.account, ASK_WITHIN)
            except StreamError as error:
                return self._not_as_required(name, str(error))
            return await self._look_at([name])
        return await self._all()

    async def _all(self) -> list[Seen]:
        """Find them among all streams of the account."""
        try:
            infos, away = await self.api.streams(ASK_WITHIN)
        except DeniedError as error:
            grant = 'allow publish: "$JS.API.STREAM.LIST" and "$JS.API.STREAM.INFO.*"'
            remedy = f"{grant}, or set RELAY_STREAM and RELAY_STREAM_SUBJECTS"
            return [fault(f"{error}; without the list nothing is published", remedy)]
        except (RejectedError, NoAnswerError) as error:
            return [fault(str(error), "look at the servers of the JetStream cluster")]
        self.away = away
        if not infos and not away:
            remedy = "create one, or set RELAY_STREAM, RELAY_STREAM_SUBJECTS, RELAY_STREAM_CREATE"
            return [fault("the account has no stream", remedy)]
        subjects = self.database.newest_subjects or ()
        meant = [info.name for info in infos if _captures(info, subjects)]
        return await self._look_at(meant or [info.name for info in infos])

    def _not_as_required(self, name: str, why: str) -> list[Seen]:
        seen, _, remedy = why.partition(": ")
        missing = seen == f"there is no stream {name}"
        if missing and self.settings.stream_create:
            self.is_to_be_made = True
            return [skipped(f"{seen} yet", "nothing: RELAY_STREAM_CREATE makes it at the start")]
        return [fault(seen, remedy)]

    async def _look_at(self, names: Sequence[str]) -> list[Seen]:
        """Ask for each stream's STREAM.INFO."""
        infos: dict[str, StreamInfo] = {}
        raw: dict[str, Json] = {}
        for name in names[:MOST]:
            try:
                raw[name] = await self.api.request(f"STREAM.INFO.{name}", ASK_WITHIN)
            except DeniedError as error:
                return [skipped(str(error), 'allow publish: "$JS.API.STREAM.INFO.*"')]
            except (RejectedError, NoAnswerError) as error:
                return [fault(f"stream {name}: {error}", "look at the servers of its cluster")]
            self.answered_at = datetime.now(UTC)
            info = read_stream_info(raw[name])
            if info is not None:
                infos[name] = info
        self.infos, self.raw = infos, raw
        captured = "; ".join(
            f"{each.name} captures {', '.join(each.subjects) or 'nothing'}"
            for each in self.infos.values()
        )
        more = f", and {len(names) - MOST} more streams" if len(names) > MOST else ""
        return [ok(captured + more or "none that answers now")]

    @_check("accepts", "`no_ack`, mirrors, sealed or full streams", "stream")
    async def _accepts(self) -> list[Seen]:
        found = [fault(_of(name, each), each.remedy) for name, each in self._weak("accepts")]
        found += [
            fault(f"stream {each} has no leader, or is offline", "look at its cluster's servers")
            for each in sorted(self.away)
        ]
        for name, info in self.infos.items():
            if info.config.get("no_ack"):
                seen = f"stream {name} has no_ack: it never says what it stored"
                found.append(fault(seen, "set no_ack to false"))
            if info.config.get("mirror"):
                seen = f"stream {name} is a mirror and takes no message"
                found.append(fault(seen, "publish to its origin"))
            found += _full(name, info)
        return found or [ok("it takes messages, and says what it stored")]

    @_check("path", "fast ingest or windowed, and why", "stream")
    async def _path(self) -> list[Seen]:
        found = []
        for name, info in self.infos.items():
            path = info.path(can_batch=self.account.can_batch)
            why = [each.weak for stream, each in self._weak("path") if stream == name]
            if not self.account.can_batch:
                why.append("the API level is below 4, or may not be asked")
            found.append(ok(f"stream {name}: {path}" + (f", for {why[0]}" if why else "")))
        return found or [ok("none is known")]

    @_check("window", "duplicate window and retry span", "stream")
    async def _window(self) -> list[Seen]:
        settings = self.settings
        span = settings.lease_lifetime + TAKE_OVER + settings.max_retry_delay
        found = [warning(_of(name, each), each.remedy) for name, each in self._weak("window")]
        for name, info in self.infos.items():
            window = info.config.get("duplicate_window", 0) / 1e9
            if window < span:
                seen = (
                    f"stream {name} forgets message ids after {window:g} s, and a repeat may come"
                    f" {lasting(span)} later (lease, take-over, RELAY_MAX_RETRY_DELAY)"
                )
                found.append(warning(seen, f"set duplicate_window to {lasting(span)} or more"))
        return found or [ok(f"longer than the longest retry span, {lasting(span)}")]

    @_check("storage", "memory, `persist_mode`", "stream")
    async def _storage(self) -> list[Seen]:
        return self._warnings("storage", "in files, written at once")

    @_check("replicas", "how many, and whether current", "stream")
    async def _replicas(self) -> list[Seen]:
        found = [warning(_of(name, each), each.remedy) for name, each in self._weak("replicas")]
        for name, raw in self.raw.items():
            cluster = raw.get("cluster")
            others = cluster.get("replicas") if isinstance(cluster, dict) else None
            for each in others if isinstance(others, list) else ():
                if isinstance(each, dict) and (each.get("offline") or not each.get("current")):
                    seen = f"stream {name}: its replica on {each.get('name')} is away or behind"
                    found.append(warning(seen, "look at that server and its log"))
        return found or [ok("three or more, all of them current")]

    @_check("limits", "what deletes old messages", "stream")
    async def _old_messages(self) -> list[Seen]:
        return self._warnings("limits", "no limit deletes old messages")

    @_check("consumers", "whether what is stored is kept", "stream")
    async def _consumers(self) -> list[Seen]:
        return self._warnings("consumers", "what is stored is kept")

    @_check("nats-clock", "nats-server's clock and this host's", "stream")
    async def _clock(self) -> list[Seen]:
        for raw in list(self.raw.values())[-1:]:
            with suppress(TypeError, ValueError):
                at = datetime.fromisoformat(str(raw.get("ts"))[:19] + "+00:00")
                apart = (at - (self.answered_at or at).replace(microsecond=0)).total_seconds()
                return [clocks_apart("nats-server", apart)]
        return [skipped("no answer of this server tells its time")]

    @_check(
        "captured", "a stream for each subject", "stream", deadline=SUBJECTS_WITHIN + ASK_WITHIN
    )
    async def _captured(self) -> list[Seen]:
        with anyio.move_on_after(SUBJECTS_WITHIN):
            await self.database.looked.wait()
        subjects = self.database.newest_subjects
        if subjects is None:
            return [skipped("depends on the check subjects, of Postgres")]
        routing = Routing(self.connection, self.api, self.account, Streams(), self.options)
        await routing.begin()
        found = []
        for subject in subjects:
            route = routing.resolve(subject)
            if not isinstance(route, Stream):
                seen, _, remedy = route.reason.partition(": ")
                found.append(fault(seen, remedy or "add it to the subjects of a stream"))
        seen = f"each of the newest events' subjects ({len(subjects)}), by a stream"
        if len(found) > MOST:
            found[MOST:] = [fault(f"{len(found) - MOST} more subjects", "as above")]
        return found or [ok(seen if subjects else "there is no event yet")]

    @_check("publish", "publish permission, on request", "jetstream")
    async def _publish(self) -> list[Seen]:
        if not self.try_publish:
            return [skipped("not asked for", "python -m relay doctor --try-publish")]
        if self.is_to_be_made:
            return [skipped("depends on the stream, which is not made yet")]
        filters = [each for info in self.infos.values() for each in info.subjects]
        known = [
            each
            for each in self.database.newest_subjects or ()
            if any(matches(pattern, each) for pattern in filters) or not filters
        ]
        literal = [_literal(each) for each in filters or self.options.stream_subjects]
        subjects = list(dict.fromkeys(known or literal))[:MOST]
        if not subjects:
            return [skipped("no subject is known", "set RELAY_STREAM_SUBJECTS, or write an event")]
        found = []
        for subject in subjects:
            found += await self._try(subject)
        return found or [ok(f"may publish to {', '.join(subjects)}, and is answered")]

    async def _try(self, subject: str) -> list[Seen]:
        try:
            answer = await self.api.ask(subject, b"", ASK_WITHIN, _EXPECTING_NONE)
        except RejectedError as error:
            if error.code == NO_SUCH_STREAM:
                return []
            code = code_of(error.code, str(error))
            return [fault(f"{subject}: {error}: {code.meaning}", code.remedy)]
        except DeniedError as error:
            return [fault(str(error), f'allow publish: "{subject}" for this login')]
        except NoAnswerError as error:
            remedy = "see the checks stream and captured, and the server's log"
            return [fault(f"{subject}: {error}", remedy)]
        shown = f"stream {answer.get('stream')}, seq {answer.get('seq')}"
        seen = f"{subject}: somebody answered who is no stream that checks its name ({shown})"
        return [fault(seen, "look who else subscribes to the subject and answers")]

    def _weak(self, topic: str) -> list[tuple[str, Weakness]]:
        return [
            (name, each)
            for name, info in self.infos.items()
            for each in weaknesses(
                info.config,
                consumers=info.state["consumer_count"],
                can_batch=self.account.can_batch,
            )
            if each.topic == topic
        ]

    def _warnings(self, topic: str, fine: str) -> list[Seen]:
        weak = self._weak(topic)
        return [warning(_of(name, each), each.remedy) for name, each in weak] or [ok(fine)]


def _of(stream: str, weakness: Weakness) -> str:
    return f"stream {stream}: {weakness.weak}"


def _captures(info: StreamInfo, subjects: Sequence[str]) -> bool:
    return any(matches(pattern, each) for pattern in info.subjects for each in subjects)


def _full(name: str, info: StreamInfo) -> list[Seen]:
    """Say if a stream that discards what is new is full, or almost."""
    if info.config.get("discard") != "new":
        return []
    found = []
    for figure, limit in (("messages", "max_msgs"), ("bytes", "max_bytes")):
        used, most = info.state[figure], whole(info.config.get(limit)) or 0
        if most and used >= most * ALMOST:
            judge = fault if used >= most else warning
            seen = f"stream {name} holds {used} of {most} {figure}, and discards what is new"
            found.append(judge(seen, f"let its consumers catch up, purge it, or raise {limit}"))
    return found


def _literal(pattern: str) -> str:
    """Return a subject that ``pattern`` captures."""
    return ".".join("doctor" if each in {"*", ">"} else each for each in pattern.split("."))
