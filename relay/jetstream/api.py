"""JetStream's own API, as far as the relay needs it: one request, one JSON answer.

Each call has a deadline of its own. What can go wrong is told apart, for the remedies differ:
``RejectedError`` (the server said no, with a code), ``DeniedError`` (permissions forbid asking) and
``NoAnswerError`` (nobody there, or not in time, or nothing that can be read).
"""

import json
from collections.abc import Collection
from dataclasses import dataclass

import anyio

from relay.errors import RelayError
from relay.jetstream.answers import Json, StreamInfo, decode, read_stream_info, status_of, whole
from relay.jetstream.connection import Connection

STREAM_NOT_FOUND = 10059
STREAM_NAME_IN_USE = 10058

MOST_STREAMS = 10_000
"""Streams that are listed, 256 with each request; what more an account has is not seen."""


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


@dataclass(frozen=True, slots=True)
class Account:
    """What JetStream says of itself.

    Attributes:
        level: its API level; 0 before server 2.11.
        domain: its domain, "" if it has none.
    """

    level: int
    domain: str


class Api:
    """The API of one connection."""

    def __init__(self, connection: Connection, prefix: str) -> None:
        """Ask below ``prefix``, which is ``$JS.API`` or leads to another domain."""
        self.prefix = prefix
        self._connection = connection

    async def request(
        self,
        verb: str,
        timeout: float,  # noqa: ASYNC109 - each request has a deadline of its own
        body: Json | None = None,
    ) -> Json:
        """Ask ``<prefix>.<verb>`` and return the answer.

        Raises:
            RejectedError, DeniedError, NoAnswerError: see the module.
        """
        connection, subject = self._connection, f"{self.prefix}.{verb}"
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
        read = decode(answer.payload)
        if read is None:
            raise NoAnswerError(f"the answer to {subject} is no JSON object")
        error = read.get("error")
        if isinstance(error, dict):
            raise RejectedError(whole(error.get("err_code")) or 0, str(error.get("description")))
        return read

    async def account(self, timeout: float) -> Account:  # noqa: ASYNC109
        """Ask for the API level and the domain. Also proves that answers reach us.

        Raises:
            RejectedError, DeniedError, NoAnswerError: see the module.
        """
        info = await self.request("INFO", timeout)
        api, domain = info.get("api"), info.get("domain")
        level = whole(api.get("level")) if isinstance(api, dict) else None
        return Account(level or 0, domain if isinstance(domain, str) else "")

    async def stream_info(self, stream: str, timeout: float) -> StreamInfo:  # noqa: ASYNC109
        """Ask for a stream's configuration and state.

        Raises:
            RejectedError: with ``STREAM_NOT_FOUND`` if there is none of that name.
            DeniedError, NoAnswerError: see the module.
        """
        return _info(await self.request(f"STREAM.INFO.{stream}", timeout))

    async def streams(self, timeout: float) -> tuple[list[StreamInfo], Collection[str]]:  # noqa: ASYNC109
        """List all streams, and name those that can't be asked now: without a leader, or offline.

        Raises:
            RejectedError, DeniedError, NoAnswerError: see the module.
        """
        found: list[StreamInfo] = []
        away: set[str] = set()
        offset, total = 0, 1
        while offset < min(total, MOST_STREAMS):
            answer = await self.request("STREAM.LIST", timeout, {"offset": offset})
            listed = answer.get("streams")
            page = listed if isinstance(listed, list) else []
            found += [info for each in page if (info := read_stream_info(each)) is not None]
            for names in (answer.get("missing"), answer.get("offline")):
                if isinstance(names, list | dict):
                    away.update(name for name in names if isinstance(name, str))
            offset += whole(answer.get("limit")) or len(page) or MOST_STREAMS
            total = whole(answer.get("total")) or 0
        return found, away

    async def create_stream(self, config: Json, timeout: float) -> StreamInfo:  # noqa: ASYNC109
        """Create a stream.

        Raises:
            RejectedError: with ``STREAM_NAME_IN_USE`` if another one made it differently meanwhile.
            DeniedError, NoAnswerError: see the module.
        """
        return _info(await self.request(f"STREAM.CREATE.{config['name']}", timeout, config))


def _info(answer: Json) -> StreamInfo:
    info = read_stream_info(answer)
    if info is None:
        raise NoAnswerError("the answer describes no stream")
    return info


class _Answer:
    """The exchange of one request."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.event = anyio.Event()
        self.payload = b""
        self.failure: RelayError | None = None

    def answered(self, rest: bytes, payload: bytes, headers: bytes | None) -> None:
        del rest
        if headers is not None and status_of(headers) == b"503" and not payload:
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
