"""A look at a stream for people: over a connection of its own, which publishes nothing."""

from typing import Any

from relay.errors import BusOutage, StreamError
from relay.jetstream.api import (
    STREAM_NOT_FOUND,
    DeniedError,
    NoAnswerError,
    RejectedError,
    api_level,
    stream_info,
)
from relay.jetstream.connection import Servers
from relay.jetstream.known import KnownStreams, Stream
from relay.jetstream.options import BusOptions
from relay.jetstream.streams import StreamMap


async def describe(options: BusOptions, stream: str) -> dict[str, Any]:
    """Describe ``stream``: name, path, messages, bytes, first_seq, last_seq, subjects, storage,
    replicas, consumers.

    ``path`` is how the relay would publish to it, None if it can't.

    Raises:
        BusOutage: no server takes us, JetStream does not answer, or the permissions forbid it.
        StreamError: there is no such stream.
    """
    connection = await Servers(options).connect()
    try:
        level = await api_level(connection, options.ack_timeout)
        info = await stream_info(connection, stream, options.ack_timeout)
    except RejectedError as no:
        if no.code == STREAM_NOT_FOUND:
            raise StreamError(
                f"there is no stream {stream}: create it, or set RELAY_STREAM_CREATE"
            ) from no
        raise BusOutage(f"stream {stream}: {no}") from no
    except (DeniedError, NoAnswerError) as why:
        raise BusOutage(f"stream {stream}: {why}") from why
    finally:
        connection.drop("done")
        await connection.dropped()
    route = StreamMap(connection, level, KnownStreams()).learn(info)
    config, state = info["config"], info["state"]
    return {
        "name": config["name"],
        "path": route.path if isinstance(route, Stream) else None,
        "messages": state["messages"],
        "bytes": state["bytes"],
        "first_seq": state["first_seq"],
        "last_seq": state["last_seq"],
        "subjects": list(config.get("subjects") or ()),
        "storage": config["storage"],
        "replicas": config["num_replicas"],
        "consumers": state["consumer_count"],
    }
