"""A new connection is prepared, and the configured stream made or checked; streams, for people.

    connection ──► account: JetStream answers us ──► the configured stream ──► list of all streams

An existing stream is never altered: it belongs to whoever made it. Two relays may make it at once;
the one that comes second checks what the first one made. The stream is insisted on at the first
connection only. Later a missing one is an outage of that stream: a person may be at work on it.
"""

import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from relay.core.checkpoint import Checkpoint
from relay.core.subjects import matches
from relay.errors import BusLoginRefused, BusOutage, StreamError
from relay.jetstream.answers import Json
from relay.jetstream.api import (
    MADE_BY_RELAY,
    STREAM_NAME_IN_USE,
    Account,
    Api,
    DeniedError,
    NoAnswerError,
    RejectedError,
    StreamInfo,
)
from relay.jetstream.codes import STREAM_NOT_FOUND
from relay.jetstream.connection import Connection
from relay.jetstream.diagnosis import Diagnosis
from relay.jetstream.options import BusOptions
from relay.jetstream.reconcile import scan
from relay.jetstream.routing import ASK_TIMEOUT, Routing
from relay.jetstream.servers import Servers
from relay.jetstream.streams import Streams
from relay.jetstream.weaknesses import MIN_DUPLICATE_WINDOW_NS

log = logging.getLogger(__name__)

# What a look at a stream's checkpoints finds.
HOLDS = "holds"
BEHIND = "behind"
REMADE = "made anew"
MISSING = "missing"
UNKNOWN = "unknown"


@dataclass(slots=True)
class Session:
    """What belongs to one connection."""

    connection: Connection
    api: Api
    routing: Routing
    diagnosis: Diagnosis


async def begin(
    connection: Connection, options: BusOptions, streams: Streams, *, insist: bool
) -> Session:
    """Prove that JetStream answers us, make or check the configured stream, list all.

    Where not ``insist``, a configured stream that is not as required is only logged.

    Raises:
        BusOutage, BusLoginRefused, StreamError: see ``JetStreamBus.connect``.
    """
    api = Api(connection, options.api)
    account = await _account(connection, api, options.ack_timeout)
    level_of = account or Account.guess(connection.server_info.get("version"))
    routing = Routing(connection, api, account, streams, options)
    try:
        info = await ensure_stream(api, options, level_of, min(options.ack_timeout, ASK_TIMEOUT))
    except (StreamError, BusOutage) as why:
        if insist or connection.lost is not None or options.stream is None:
            raise
        log.warning("the configured stream is not as required", extra={"reason": str(why)})
    else:
        if info is not None:
            streams.meet(streams.learn(info, can_batch=routing.can_batch))
    await routing.begin()
    server = connection.server_info.get("server_name")
    log.info("connected to NATS", extra={"server": server, "api_level": level_of.level})
    return Session(connection, api, routing, Diagnosis(connection, api, routing))


async def _account(connection: Connection, api: Api, timeout: float) -> Account | None:  # noqa: ASYNC109
    """Ask JetStream what it is; None if the permissions hide that."""
    try:
        return await api.account(timeout)
    except DeniedError:
        return None
    except (RejectedError, NoAnswerError) as why:
        if connection.forbidden_inbox is not None:
            remedy = "set RELAY_NATS_INBOX_PREFIX to one that is allowed"
            raise BusLoginRefused(f"{connection.forbidden_inbox}: {remedy}") from why
        raise BusOutage(f"JetStream does not answer: {why}") from why


async def ensure_stream(
    api: Api,
    options: BusOptions,
    account: Account,
    ask_timeout: float,
) -> StreamInfo | None:
    """Return the configured stream's STREAM.INFO, making the stream first if that was asked for.

    Each question has ``ask_timeout`` s, the making of it the usual time-out. None if no stream is
    configured, or if the permissions hide it.

    Raises:
        StreamError: it is missing, can't be made, never acknowledges, or lacks a subject.
        BusOutage: JetStream does not answer.
    """
    stream = options.stream
    wanted = _new_stream(options, account) if options.stream_create else None
    if stream is None:
        return None
    try:
        info = await _find(api, stream, ask_timeout)
        if info is None and wanted is None:
            raise StreamError(_missing(options, stream))
        if info is None and wanted is not None:
            try:
                info = await api.create_stream(wanted, options.ack_timeout)
            except (RejectedError, DeniedError) as no:
                if not isinstance(no, RejectedError) or no.code != STREAM_NAME_IN_USE:
                    raise StreamError(f"stream {stream} can't be made: {no}") from no
                info = await _find(api, stream, ask_timeout)
    except DeniedError:
        return None
    except NoAnswerError as silence:
        raise BusOutage(f"stream {stream}: {silence}") from silence
    if info is None:
        raise BusOutage(f"stream {stream}: another client made it, and it is gone again")
    _insist(info, options.stream_subjects)
    return info


async def _find(api: Api, stream: str, timeout: float) -> StreamInfo | None:  # noqa: ASYNC109
    try:
        return await api.stream_info(stream, timeout)
    except RejectedError as no:
        if no.code == STREAM_NOT_FOUND:
            return None
        raise BusOutage(f"stream {stream}: {no}") from no


def _missing(options: BusOptions, stream: str) -> str:
    if options.stream_create:
        return f"there is no stream {stream} yet: RELAY_STREAM_CREATE makes it when a relay starts"
    return f"there is no stream {stream}: create it, or set RELAY_STREAM_CREATE"


def _new_stream(options: BusOptions, account: Account) -> Json:
    if not options.stream or not options.stream_subjects:
        needed = "set RELAY_STREAM and RELAY_STREAM_SUBJECTS"
        raise StreamError(f"RELAY_STREAM_CREATE needs the stream's name and subjects: {needed}")
    return {
        "name": options.stream,
        "subjects": list(options.stream_subjects),
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "num_replicas": 1,
        "duplicate_window": MIN_DUPLICATE_WINDOW_NS,
        "allow_direct": True,
        "metadata": MADE_BY_RELAY,
        **({"allow_batched": True} if account.can_batch else {}),
        **({"allow_msg_ttl": True} if account.level else {}),
    }


def _insist(info: StreamInfo, subjects: tuple[str, ...]) -> None:
    name, config, filters = info.name, info.config, info.subjects
    if config.get("no_ack"):
        raise StreamError(
            f"stream {name} has no_ack: it never says what it stored, so nothing can be delivered "
            "to it. Set no_ack to false"
        )
    if config.get("mirror"):
        raise StreamError(f"stream {name} is a mirror and takes no message: name its origin")
    lacking = [each for each in subjects if not any(matches(has, each) for has in filters)]
    if lacking:
        raise StreamError(
            f"stream {name} captures {', '.join(filters) or 'nothing'} but not "
            f"{', '.join(lacking)}: add them to the stream, or mend RELAY_STREAM_SUBJECTS"
        )


@asynccontextmanager
async def asking(options: BusOptions) -> AsyncIterator[Api]:
    """Give the API over a connection of its own, which publishes nothing, for the block.

    Raises:
        BusOutage, BusLoginRefused, SettingsError: there is no connection.
    """
    connection = await Servers(options).connect()
    try:
        yield Api(connection, options.api)
    finally:
        connection.drop("done")
        await connection.dropped()


async def describe(options: BusOptions, stream: str) -> dict[str, Any]:
    """Describe ``stream`` over a connection of its own, which publishes nothing.

    Keys: name, path, messages, bytes, first_seq, last_seq, subjects, storage, replicas, consumers.
    ``path`` is how the relay would publish to it, None if it can't.

    Raises:
        BusOutage: no server takes us, JetStream does not answer, or the permissions forbid it.
        StreamError: there is no such stream.
    """
    async with asking(options) as api:
        try:
            account = await api.account(options.ack_timeout)
            info = await _find(api, stream, options.ack_timeout)
        except (DeniedError, NoAnswerError, RejectedError) as why:
            raise BusOutage(f"stream {stream}: {why}") from why
    if info is None:
        raise StreamError(_missing(options, stream))
    config, state = info.config, info.state
    return {
        "name": info.name,
        "path": None if config.get("no_ack") else info.path(can_batch=account.can_batch),
        **{name: state[name] for name in ("messages", "bytes", "first_seq", "last_seq")},
        "subjects": list(info.subjects),
        "storage": config.get("storage"),
        "replicas": config.get("num_replicas"),
        "consumers": state["consumer_count"],
    }


async def duplicate_window(options: BusOptions, streams: Collection[str]) -> float:
    """Ask for the longest duplicate window in s of those of ``streams`` that are there.

    Raises:
        BusOutage: no server takes us, JetStream does not answer, or the permissions forbid it.
    """
    async with asking(options) as api:
        try:
            found = [await _find(api, stream, options.ack_timeout) for stream in streams]
        except (DeniedError, NoAnswerError, RejectedError) as why:
            raise BusOutage(f"the streams' duplicate windows can't be seen: {why}") from why
    windows = [info.config.get("duplicate_window", 0) / 1e9 for info in found if info is not None]
    if not windows:
        raise BusOutage(f"no stream is there, of {', '.join(streams) or 'none'} that are known")
    return float(max(windows))


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at one stream found.

    Attributes:
        stream: its name.
        state: HOLDS, BEHIND, REMADE, MISSING or UNKNOWN.
        last_seq: its last sequence; None if it could not be asked.
        newest: its newest checkpoint.
        held: of a stream that is behind, the newest checkpoint that it still holds; see ``scan``.
        reason: why it is UNKNOWN.
    """

    stream: str
    state: str
    last_seq: int | None
    newest: Checkpoint
    held: Checkpoint | None = None
    reason: str = ""


async def examine(
    options: BusOptions, ring: Mapping[str, Sequence[Checkpoint]]
) -> Sequence[Finding]:
    """Compare each stream with all of its checkpoints, the newest first in ``ring``.

    Raises:
        BusOutage, SettingsError: as ``JetStreamBus.connect``.
    """
    seconds = options.ack_timeout
    try:
        async with asking(options) as api:
            return [await _examine(api, name, each, seconds) for name, each in ring.items()]
    except BusOutage as why:
        raise BusOutage(f"NATS is away: {why}") from why


async def _examine(api: Api, stream: str, ring: Sequence[Checkpoint], seconds: float) -> Finding:
    newest, last_seq = ring[0], None
    try:
        info = await api.stream_info(stream, seconds)
        last_seq = info.state["last_seq"]
        if info.created != newest.tip.created and not info.made_by_relay:
            return Finding(stream, REMADE, last_seq, newest)
        contradicted, held = await scan(api, info, ring)
    except RejectedError as no:
        if no.code == STREAM_NOT_FOUND:
            return Finding(stream, MISSING, None, newest)
        return Finding(stream, UNKNOWN, last_seq, newest, reason=str(no))
    except (DeniedError, NoAnswerError, BusOutage) as why:
        return Finding(stream, UNKNOWN, last_seq, newest, reason=str(why))
    if not contradicted:
        return Finding(stream, HOLDS, last_seq, newest)
    return Finding(stream, BEHIND, last_seq, newest, held)
