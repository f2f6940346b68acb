"""JetStream's own API, as far as the relay needs it: one request, one JSON answer.

Each call has a deadline of its own. The three failures are told apart, for the remedies differ:
``RejectedError`` (the server said no, with a code), ``DeniedError`` (permissions forbid asking) and
``NoAnswerError`` (nobody there, or not in time, or nothing that can be read). Every method here
raises these three and no other.
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import anyio

from relay.errors import RelayError
from relay.jetstream.answers import Json, decode, is_name, status_of, whole
from relay.jetstream.connection import Connection

STREAM_NAME_IN_USE = 10058

MOST_STREAMS = 10_000
"""Streams that are listed, 256 with each request; what more an account has is not seen."""

MADE_BY_RELAY: Final = {"relay": "made because it was missing"}
"""The metadata of a stream that a relay made."""

FAST_INGEST = "fast ingest"
WINDOWED = "windowed"
_FAST_INGEST_LEVEL = 4
"""The JetStream API level (server 2.14) from which on ``allow_batched`` means fast ingest."""


class RejectedError(RelayError):
    """JetStream answered with an error, whose ``err_code`` is ``code``; ``status`` is as HTTP's."""

    def __init__(self, code: int, text: str, status: int = 0) -> None:
        """Keep the codes."""
        self.code = code
        self.status = status
        super().__init__(f"{text} (JetStream error {code})")


class DeniedError(RelayError):
    """The connection's permissions forbid the request."""


class NoAnswerError(RelayError):
    """Nobody answered: JetStream is off, has no leader, or the connection is lost."""


@dataclass(frozen=True, slots=True)
class Account:
    """What JetStream says of itself."""

    level: int  # of its API; 0 before server 2.11
    domain: str | None  # "" if it has none; None if that is not known

    @property
    def can_batch(self) -> bool:
        """Whether the server knows fast ingest."""
        return self.level >= _FAST_INGEST_LEVEL

    @classmethod
    def read(cls, info: Json) -> "Account":
        """Read the answer to INFO."""
        api, domain = info.get("api"), info.get("domain")
        level = whole(api.get("level")) if isinstance(api, dict) else None
        return cls(level or 0, domain if isinstance(domain, str) else "")

    @classmethod
    def guess(cls, version: object) -> "Account":
        """Guess the level by the server's version, where the permissions hide it."""
        numbers = [int(each) for each in str(version).split(".")[:2] if each.isdecimal()]
        return cls(_FAST_INGEST_LEVEL if numbers >= [2, 14] and len(numbers) > 1 else 0, None)


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A STREAM.INFO, with nothing in it but what is as it should be."""

    name: str
    config: Json  # ``_CONFIG`` says which fields of which type
    state: dict[str, int]  # ``_STATE``
    domain: str  # "" if it has none
    created: str = ""  # when, as the server writes it; the same for the stream's life

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subject filters."""
        return tuple(self.config.get("subjects", ()))

    @property
    def made_by_relay(self) -> bool:
        """Whether a relay made it, because it was missing (RELAY_STREAM_CREATE)."""
        metadata: Json = self.config.get("metadata", {})
        return MADE_BY_RELAY.items() <= metadata.items()

    def path(self, *, can_batch: bool) -> str:
        """How to publish to it: ``FAST_INGEST`` or ``WINDOWED``."""
        return FAST_INGEST if can_batch and self.config.get("allow_batched") else WINDOWED


_CONFIG: Final[dict[str, type]] = {
    **dict.fromkeys(("storage", "retention", "discard", "persist_mode"), str),
    **dict.fromkeys(("no_ack", "sealed", "allow_batched"), bool),
    **dict.fromkeys(("allow_direct", "allow_msg_counter", "allow_msg_ttl"), bool),
    **dict.fromkeys(("max_msgs", "max_bytes", "max_age", "max_msgs_per_subject"), int),
    **dict.fromkeys(("max_msg_size", "num_replicas", "duplicate_window"), int),
    **dict.fromkeys(("mirror", "metadata"), dict),
}
LARGEST: Final = (1 << 63) - 1
"""What Postgres keeps, of a sequence that begins where its stream's ``first_seq`` says."""

_FILTER: Final = re.compile(r"[^\x00\ud800-\udfff]{1,255}")
"""What can take an event's subject, of at most 255 bytes; the server takes any other one, too."""

_STATE: Final = ("messages", "bytes", "first_seq", "last_seq", "consumer_count")


def read_stream_info(answer: object) -> StreamInfo | None:
    """Read a STREAM.INFO, or one of a STREAM.LIST; None if it is none. Never raises."""
    config = answer.get("config") if isinstance(answer, dict) else None
    name = config.get("name") if isinstance(config, dict) else None
    if not isinstance(answer, dict) or not isinstance(config, dict) or not is_name(name):
        return None
    kept = {
        field: config[field] for field, kind in _CONFIG.items() if type(config.get(field)) is kind
    }
    subjects, state, domain = config.get("subjects"), answer.get("state"), answer.get("domain", "")
    if isinstance(subjects, list):
        kept["subjects"] = [
            each for each in subjects if isinstance(each, str) and _FILTER.fullmatch(each)
        ]
    state = state if isinstance(state, dict) else {}
    figures = {field: min(whole(state.get(field)) or 0, LARGEST) for field in _STATE}
    texts = [each if isinstance(each, str) else "" for each in (domain, answer.get("created"))]
    return StreamInfo(name, kept, figures, *texts)


@dataclass(slots=True)
class Api:
    """The API of one connection, below ``prefix``: ``$JS.API``, or that of another domain."""

    _connection: Connection
    prefix: str

    async def request(
        self,
        verb: str,
        timeout: float,  # noqa: ASYNC109 - each request has a deadline of its own
        body: Json | None = None,
    ) -> Json:
        """Ask ``<prefix>.<verb>`` and return the answer."""
        payload = json.dumps(body).encode() if body is not None else b""
        return await self.ask(f"{self.prefix}.{verb}", payload, timeout)

    async def ask(
        self,
        subject: str,
        payload: bytes,
        timeout: float,  # noqa: ASYNC109
        headers: bytes = b"",
    ) -> Json:
        """Ask ``subject`` and return the answer; ``headers`` are a whole block, or none."""
        read = decode(await self.answer(subject, payload, timeout, headers))
        if read is None:
            raise NoAnswerError(f"the answer to {subject} is no JSON object")
        error = read.get("error")
        if isinstance(error, dict):
            code, status = whole(error.get("err_code")) or 0, whole(error.get("code")) or 0
            raise RejectedError(code, str(error.get("description")), status)
        return read

    async def answer(
        self,
        subject: str,
        payload: bytes,
        timeout: float,  # noqa: ASYNC109
        headers: bytes = b"",
    ) -> bytes:
        """Ask ``subject`` and return the answer as it comes."""
        connection, answer = self._connection, _Answer(subject)
        with connection.exchange(answer) as token:
            verb, sizes = "PUB", str(len(payload))
            if headers:
                verb, sizes = "HPUB", f"{len(headers)} {len(headers) + len(payload)}"
            head = f"{verb} {subject} {connection.inbox}.{token} {sizes}\r\n".encode()
            try:
                with anyio.fail_after(timeout):
                    connection.wire.write(b"%b%b%b\r\n" % (head, headers, payload))
                    await connection.wire.drain()
                    await answer.event.wait()
            except TimeoutError:
                raise NoAnswerError(f"no answer to {subject} within {timeout:g} s") from None
        if answer.failure is not None:
            raise answer.failure
        return answer.payload

    async def account(self, timeout: float) -> Account:  # noqa: ASYNC109
        """Ask for the API level and the domain. Also proves that answers reach us."""
        return Account.read(await self.request("INFO", timeout))

    async def stream_info(self, stream: str, timeout: float) -> StreamInfo:  # noqa: ASYNC109
        """Ask for a stream's configuration and state; ``STREAM_NOT_FOUND`` if there is none."""
        return _info(await self.request(f"STREAM.INFO.{stream}", timeout))

    async def streams(self, timeout: float) -> tuple[list[StreamInfo], Collection[str]]:  # noqa: ASYNC109
        """List all streams, and name those that can't be asked now: leaderless or offline."""
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
        """Create a stream; ``STREAM_NAME_IN_USE`` if one with another configuration exists."""
        return _info(await self.request(f"STREAM.CREATE.{config['name']}", timeout, config))


def _info(answer: Json) -> StreamInfo:
    info = read_stream_info(answer)
    if info is None:
        raise NoAnswerError("the answer describes no stream")
    return info


class _Answer:
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
