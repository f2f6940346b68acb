"""A look at a stream for people: over a connection of its own, which publishes nothing."""

from typing import Any

from relay.errors import BusOutage, StreamError
from relay.jetstream.api import (
    STREAM_NOT_FOUND,
    Api,
    DeniedError,
    NoAnswerError,
    RejectedError,
)
from relay.jetstream.options import BusOptions
from relay.jetstream.servers import Servers
from relay.jetstream.setup import FAST_INGEST_LEVEL
from relay.jetstream.streams import Streams


async def describe(options: BusOptions, stream: str) -> dict[str, Any]:
    """Describe ``stream``: name, path, messages, bytes, first_seq, last_seq, subjects, storage,
    replicas, consumers.

    ``path`` is how the relay would publish to it, None if it can't.

    Raises:
        BusOutage: no server takes us, JetStream does not answer, or the permissions forbid it.
        StreamError: there is no such stream.
    """
    connection = await Servers(options).connect()
    api = Api(connection, options.api)
    try:
        account = await api.account(options.ack_timeout)
        info = await api.stream_info(stream, options.ack_timeout)
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
    found = Streams().learn(info, can_batch=account.level >= FAST_INGEST_LEVEL)
    return {
        "name": info.name,
        "path": None if found.no_ack else found.path,
        "messages": info.state["messages"],
        "bytes": info.state["bytes"],
        "first_seq": info.state["first_seq"],
        "last_seq": info.state["last_seq"],
        "subjects": list(info.subjects),
        "storage": info.config.get("storage"),
        "replicas": info.config.get("num_replicas"),
        "consumers": info.state["consumer_count"],
    }
