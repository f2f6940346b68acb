"""JetStream's own API, as far as the relay needs it: one request, one JSON answer.

Each call has a deadline of its own. What can go wrong is told apart, for the remedies differ:
``RejectedError`` (the server said no, with a code), ``DeniedError`` (permissions forbid asking) and
``NoAnswerError`` (nobody there, or not in time).
"""

import json
from typing import Any

import anyio

from relay.errors import RelayError
from relay.jetstream.connection import Connection

STREAM_NOT_FOUND = 10059
STREAM_NAME_IN_USE = 10058

Json = dict[str, Any]


class RejectedError(RelayError):
    """JetStream answered with an error."""

    def __init__(self, code: int, text: str) -> None:
        """Keep the ``err_code``."""
        self.code = code
        super().__init__(f"{text} (JetStream error {code})")


class DeniedError(RelayError):
    """The connection's permissions forbid the request."""


class NoAnswerError(RelayError):
    """Nobody answered: JetStream is off, has no leader, or the connection is lost."""


class _Answer:
    """The exchange of one request."""

    def __init__(self, subject: str) -> None:
        self.subject = subject.lower()
        self.event = anyio.Event()
        self.payload = b""
        self.failure: RelayError | None = None

    def answered(self, rest: bytes, payload: bytes, headers: bytes | None) -> None:
        del rest
        if headers is not None and headers[9:12] == b"503" and not payload:
            self.failure = NoAnswerError(
                "nobody answers: JetStream is off, or not for this account"
            )
        self.payload = payload
        self.event.set()

    def denied(self, subject: str, reason: str) -> None:
        if subject == self.subject:
            self.failure = DeniedError(reason)
            self.event.set()

    def dropped(self, reason: str) -> None:
        self.failure = NoAnswerError(f"connection lost: {reason}")
        self.event.set()


async def request(
    connection: Connection,
    verb: str,
    timeout: float,  # noqa: ASYNC109 - each request has a deadline of its own
    body: Json | None = None,
) -> Json:
    """Ask ``$JS.API.<verb>`` and return the answer.

    Raises:
        RejectedError, DeniedError, NoAnswerError: see the module.
    """
    subject = f"$JS.API.{verb}"
    answer = _Answer(subject)
    payload = json.dumps(body).encode() if body is not None else b""
    with connection.exchange(answer) as token:
        reply = f"{connection.inbox}.{token}"
        head = f"PUB {subject} {reply} {len(payload)}\r\n".encode()
        try:
            with anyio.fail_after(timeout):
                connection.wire.write(b"%b%b\r\n" % (head, payload))
                await connection.wire.drain()
                await answer.event.wait()
        except TimeoutError:
            raise NoAnswerError(f"no answer to {subject} within {timeout:g} s") from None
    if answer.failure is not None:
        raise answer.failure
    try:
        read: Json = json.loads(answer.payload)
    except ValueError:
        raise NoAnswerError(f"the answer to {subject} is not JSON") from None
    if error := read.get("error"):
        raise RejectedError(int(error.get("err_code", 0)), str(error.get("description", "")))
    return read


async def api_level(connection: Connection, timeout: float) -> int:  # noqa: ASYNC109
    """Ask for the server's JetStream API level; 0 before 2.11. Also proves that answers reach us.

    Raises:
        RejectedError, DeniedError, NoAnswerError: see the module.
    """
    info = await request(connection, "INFO", timeout)
    return int(info.get("api", {}).get("level", 0))


async def streams_of(connection: Connection, subject: str, timeout: float) -> list[str]:  # noqa: ASYNC109
    """Name the streams that capture ``subject``. A stream without a leader is named as well.

    Raises:
        RejectedError, DeniedError, NoAnswerError: see the module; never for "there is none".
    """
    answer = await request(connection, "STREAM.NAMES", timeout, {"subject": subject})
    return list(answer.get("streams") or ())


async def stream_info(connection: Connection, stream: str, timeout: float) -> Json:  # noqa: ASYNC109
    """Ask for a stream's configuration and state.

    Raises:
        RejectedError: with ``STREAM_NOT_FOUND`` if there is none of that name.
        DeniedError, NoAnswerError: see the module.
    """
    return await request(connection, f"STREAM.INFO.{stream}", timeout)


async def create_stream(connection: Connection, config: Json, timeout: float) -> Json:  # noqa: ASYNC109
    """Create a stream.

    Raises:
        RejectedError: with ``STREAM_NAME_IN_USE`` if another one made it differently meanwhile.
        DeniedError, NoAnswerError: see the module.
    """
    return await request(connection, f"STREAM.CREATE.{config['name']}", timeout, config)
