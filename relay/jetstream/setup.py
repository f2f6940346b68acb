"""The configured stream at start: made if it is missing and that was asked for, else checked.

An existing stream is never altered: it belongs to whoever made it. Two relays may make it at once;
the one that comes second checks what the first one made.
"""

from relay.core.subjects import matches
from relay.errors import BusOutage, StreamError
from relay.jetstream.answers import Json, StreamInfo
from relay.jetstream.api import (
    STREAM_NAME_IN_USE,
    STREAM_NOT_FOUND,
    Api,
    DeniedError,
    NoAnswerError,
    RejectedError,
)
from relay.jetstream.options import BusOptions
from relay.jetstream.weaknesses import MIN_DUPLICATE_WINDOW_NS

FAST_INGEST_LEVEL = 4
"""The JetStream API level (server 2.14) from which on ``allow_batched`` means fast ingest."""


def new_stream(options: BusOptions, level: int) -> Json:
    """Describe the stream that RELAY_STREAM_CREATE makes.

    Raises:
        StreamError: a name or the subjects are missing.
    """
    if not options.stream or not options.stream_subjects:
        raise StreamError(
            "RELAY_STREAM_CREATE needs the stream's name and subjects: "
            "set RELAY_STREAM and RELAY_STREAM_SUBJECTS"
        )
    config: Json = {
        "name": options.stream,
        "subjects": list(options.stream_subjects),
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "num_replicas": 1,
        "duplicate_window": MIN_DUPLICATE_WINDOW_NS,
        "allow_direct": True,
    }
    if level >= FAST_INGEST_LEVEL:
        config["allow_batched"] = True
    return config


async def ensure_stream(
    api: Api,
    options: BusOptions,
    level: int,
    ask_timeout: float,
) -> StreamInfo | None:
    """Return the configured stream's STREAM.INFO, making the stream first if that was asked for.

    Each question has ``ask_timeout`` s, the making of it the usual time-out. None if no stream is
    configured, or if the permissions hide it.

    Raises:
        StreamError: it is missing, can't be made, never acknowledges, or lacks a subject.
        BusOutage: JetStream does not answer.
    """
    wanted = new_stream(options, level) if options.stream_create else None
    if options.stream is None:
        return None
    try:
        info = await _find_or_make(api, options, options.stream, wanted, ask_timeout)
    except DeniedError:
        return None
    except NoAnswerError as silence:
        raise BusOutage(f"stream {options.stream}: {silence}") from silence
    _insist(info, options.stream_subjects)
    return info


async def _find_or_make(
    api: Api,
    options: BusOptions,
    stream: str,
    wanted: Json | None,
    timeout: float,  # noqa: ASYNC109
) -> StreamInfo:
    try:
        return await api.stream_info(stream, timeout)
    except RejectedError as no:
        if no.code != STREAM_NOT_FOUND:
            raise BusOutage(f"stream {stream}: {no}") from no
        if wanted is None:
            raise StreamError(
                f"there is no stream {stream}: create it, or set RELAY_STREAM_CREATE"
            ) from no
    try:
        return await api.create_stream(wanted, options.ack_timeout)
    except RejectedError as no:
        if no.code != STREAM_NAME_IN_USE:
            raise StreamError(f"stream {stream} can't be made: {no}") from no
    except DeniedError as no:
        raise StreamError(f"stream {stream} can't be made: {no}") from no
    try:
        return await api.stream_info(stream, timeout)
    except RejectedError as no:
        raise BusOutage(f"stream {stream}: {no}") from no


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
