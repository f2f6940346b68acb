"""JetStream's end: a durable pull consumer, read so that nothing of a key overtakes.

    attach ──► catch up ──► pull ──► pull ──► ...
       ▲                      │
       └── doubt: a gap in the numbers, the consumer gone or moved, the connection lost

JetStream hands a message that was delivered and not acknowledged out again only after AckWait, and
hands out later ones of its key meanwhile. So an attach never relies on that. The durable says up to
where all is acknowledged (its floor) and what it delivered last; what lies between is read from the
stream itself, in order, and goes first. What was done already, the inbox knows. Behind that,
deliveries are numbered without a gap: a gap is something that was delivered to nobody, or to
somebody else, and means another attach. Redeliveries come on top, behind what they repeat.

A lost connection is an attach, too: what it had under way is not known.
"""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from relay.consumer.message import Delivery, read
from relay.errors import BusOutage, StreamError
from relay.jetstream.api import Api, DeniedError, NoAnswerError, RejectedError
from relay.jetstream.codes import STREAM_NOT_FOUND
from relay.jetstream.connection import Connection
from relay.jetstream.duplicates import NO_MESSAGE_FOUND
from relay.jetstream.parser import Message

API_DEADLINE: Final = 5.0

EXPIRES: Final = 10.0
"""Seconds for which JetStream keeps a pull open while there is nothing."""

IDLE: Final = 1.0
"""Seconds without a message after which JetStream is asked whether it has delivered one."""

UNDERWAY: Final = 0.2
"""Seconds that a delivery may be under way."""

MOST_PULLED_BYTES: Final = 8 << 20

_NO_CONSUMER: Final = 10014
_LATER: Final = frozenset({500, 503})
_ROOM_FOR_CRASHES: Final = 20
"""A crash leaves what was in hand pending until AckWait; so many may follow one another."""


class Doubt(BusOutage):
    """Something may have been delivered to nobody: attach again."""


@dataclass(frozen=True, slots=True)
class Durable:
    """Which JetStream consumer is read, and how it is made where it is missing.

    Attributes:
        subjects: filters; empty for all of the stream.
        only_new: one that is made begins with what comes then, not with all there is.
        ack_wait: s until JetStream delivers again.
        most: messages in hand at a time.
    """

    stream: str
    name: str
    subjects: tuple[str, ...]
    only_new: bool
    ack_wait: float
    most: int
    prefix: str

    def config(self, since: datetime | None) -> dict[str, Any]:
        """Return it as JetStream's API takes it, to begin with what was stored ``since``."""
        filters: dict[str, Any] = {"filter_subjects": list(self.subjects)} if self.subjects else {}
        if len(self.subjects) == 1:  # servers before 2.10 know this form alone
            filters = {"filter_subject": self.subjects[0]}
        begin = {"deliver_policy": "new" if self.only_new else "all"}
        if since is not None:
            begin = {"deliver_policy": "by_start_time", "opt_start_time": since.isoformat()}
        return {
            "durable_name": self.name,
            **begin,
            "ack_policy": "explicit",
            "replay_policy": "instant",
            "ack_wait": int(self.ack_wait * 1e9),
            "max_deliver": -1,
            "max_ack_pending": self.most * _ROOM_FOR_CRASHES,
            **filters,
        }

    def faults(self, config: Mapping[str, Any]) -> list[str]:
        """Say why a consumer that is there can't be used."""
        given = config.get("filter_subjects") or [config.get("filter_subject") or ""]
        wanted = self.subjects or ("",)
        checks = (
            (not config.get("deliver_subject"), "it pushes, and must be a pull consumer"),
            (config.get("ack_policy") == "explicit", "its ack policy must be explicit"),
            ((config.get("max_deliver") or -1) < 0, "its max deliver must be -1"),
            (sorted(given) in (sorted(wanted), [">"] if wanted == ("",) else None),
             f"its filter is {', '.join(given) or 'empty'}, not {', '.join(wanted) or 'empty'}"),
        )  # fmt: skip
        return [fault for fine, fault in checks if not fine]


@contextmanager
def _failures() -> Iterator[None]:
    """Raise BusOutage where JetStream may answer later, and let its refusals through."""
    try:
        yield
    except NoAnswerError as error:
        raise BusOutage(f"no answer from JetStream: {error}") from None
    except RejectedError as error:
        if error.status in _LATER:
            raise BusOutage(str(error)) from None
        raise


class Reader:
    """The deliveries of a JetStream consumer since an attach, in its numbers' order.

    An exchange, for the statuses that answer its pulls.
    """

    def __init__(self, api: Api, durable: Durable, number: int) -> None:
        """Go on behind the delivery ``number``."""
        self._api = api
        self._durable = durable
        self._number = number
        self._subject = f"{durable.prefix}.CONSUMER.MSG.NEXT.{durable.stream}.{durable.name}"
        self._received: list[Delivery] = []
        self._open = 0
        self._failure: BusOutage | None = None
        self._news = asyncio.Event()
        self._bytes = MOST_PULLED_BYTES
        self._got = 0
        self._pulled_at = 0.0

    @contextmanager
    def reading(self, connection: Connection) -> Iterator[None]:
        """Take the deliveries of ``connection`` for the block."""
        self._connection = connection
        with connection.exchange(self) as token:
            self._inbox = f"{connection.inbox}.{token}"
            connection.wire.parser.deliver_to(self._take, self._durable.name)
            try:
                yield
            finally:
                connection.wire.parser.deliver_to(None)

    async def batch(self, most: int) -> list[Delivery]:
        """Wait for what comes next; empty if nothing has come for ``IDLE`` s.

        Raises:
            Doubt, BusOutage: what comes next is not known.
        """
        if not self._open and not self._received:
            self._pull(most)
        try:
            async with asyncio.timeout(IDLE):
                await self._news.wait()
        except TimeoutError:
            await self._look()
        self._news.clear()
        batch, self._received = self._received, []
        if self._failure is not None and not batch:
            raise self._failure
        return batch

    async def _look(self) -> None:
        """See that nothing was delivered that has not come here: later ones would tell by a gap."""
        number, where = self._number, f"{self._durable.stream}.{self._durable.name}"
        try:
            with _failures():
                info = await self._api.request(f"CONSUMER.INFO.{where}", API_DEADLINE)
        except (RejectedError, DeniedError) as error:
            raise Doubt(str(error)) from None
        if info["delivered"]["consumer_seq"] > number:
            await asyncio.sleep(UNDERWAY)
            if self._number == number:
                raise Doubt("something was delivered to nobody, or to somebody else")
        if self._open and time.monotonic() > self._pulled_at + EXPIRES + API_DEADLINE:
            raise Doubt("a pull was not answered")

    def _pull(self, most: int) -> None:
        self._open, self._got, self._pulled_at = most, 0, time.monotonic()
        request: dict[str, int] = {"batch": most, "expires": int(EXPIRES * 1e9)}
        if self._bytes:
            request["max_bytes"] = self._bytes
        body = json.dumps(request)
        frame = f"PUB {self._subject} {self._inbox} {len(body)}\r\n{body}\r\n"
        self._connection.wire.write(frame.encode())

    def _take(self, messages: list[Message], first: int, last: int, pending: int) -> None:
        del pending
        if self._failure is None and (
            first != self._number + 1 or last - first + 1 != len(messages)
        ):
            self._failure = Doubt(
                f"deliveries {first} to {last} came behind {self._number}: what is between went to "
                "nobody, or to somebody else who reads from this JetStream consumer"
            )
        elif self._failure is None:
            self._number = last
            self._got += len(messages)
            self._open -= len(messages)
            stream = self._durable.stream
            self._received += [Delivery(read(each, stream), each.ack) for each in messages]
            if not self._open:
                self._bytes = MOST_PULLED_BYTES
        self._news.set()

    def answered(self, rest: bytes, payload: bytes, headers: bytes | None) -> None:
        """Take the status with which JetStream ends a pull."""
        del rest, payload
        first = (headers or b"").partition(b"\r\n")[0].decode(errors="replace")
        code, _, description = first.partition(" ")[2].strip().partition(" ")
        match code:
            case "" | "100":
                return
            case "409" if description == "Batch Completed":
                return  # the messages' number said so before; another pull may be open by now
            case "404" | "408":
                pass
            case "409" if "MaxBytes" in description and "Request" not in description:
                if not self._got:
                    self._bytes = 0  # one message is larger than all that we ask for
            case _:
                self._failure = Doubt(f"JetStream ended a pull: {code} {description}")
        self._open = 0
        self._news.set()

    def denied(self, subject: str, reason: str) -> None:
        """Take that pulling is forbidden."""
        if subject == self._subject:
            self.dropped(reason)

    def dropped(self, reason: str) -> None:
        """Take that nothing more will come."""
        self._failure = BusOutage(reason)
        self._news.set()


@asynccontextmanager
async def attached(
    connection: Connection, durable: Durable, since: datetime | None
) -> AsyncIterator[tuple[AsyncIterator[Delivery], Reader]]:
    """Attach; give what has to be caught up with, and then the reader of what follows.

    ``since``: when the message at the floor was stored. A durable that was deleted is made anew
    from there.

    Raises:
        StreamError: the stream is missing, or the consumer is not as needed.
        BusOutage: later.
    """
    api = Api(connection, durable.prefix)
    try:
        with _failures():
            info = await _info(api, durable, since)
    except (RejectedError, DeniedError) as error:
        if isinstance(error, RejectedError) and error.code == STREAM_NOT_FOUND:
            raise StreamError(f"there is no stream {durable.stream!r}: {error}") from None
        raise StreamError(f"JetStream consumer {durable.name!r} can't be used: {error}") from None
    if faults := durable.faults(info["config"]):
        raise StreamError(
            f"JetStream consumer {durable.name!r} of {durable.stream!r}: {'; '.join(faults)}; "
            "change it, or take another name"
        )
    floor, last = info["ack_floor"]["stream_seq"], info["delivered"]["stream_seq"]
    behind = _between(api, durable, floor, last if info["num_ack_pending"] else floor)
    reader = Reader(api, durable, info["delivered"]["consumer_seq"])
    with reader.reading(connection):
        yield behind, reader


async def _info(api: Api, durable: Durable, since: datetime | None) -> dict[str, Any]:
    """Look at the durable, and make it if it is missing."""
    where = f"{durable.stream}.{durable.name}"
    try:
        return await api.request(f"CONSUMER.INFO.{where}", API_DEADLINE)
    except RejectedError as error:
        if error.code != _NO_CONSUMER:
            raise
    make = {"stream_name": durable.stream, "config": durable.config(since)}
    return await api.request(f"CONSUMER.CREATE.{where}", API_DEADLINE, make)


async def _between(api: Api, durable: Durable, floor: int, last: int) -> AsyncIterator[Delivery]:
    """Read the messages behind ``floor`` up to ``last`` from the stream itself, in order."""
    heads = dict[str, Delivery]()

    async def advance(subject: str, behind: int) -> None:
        heads.pop(subject, None)
        found = await _next(api, durable, subject, behind + 1)
        if found is not None and found.message.sequence <= last:
            heads[subject] = found

    if last > floor:
        for subject in durable.subjects or (">",):
            await advance(subject, floor)
    while heads:
        subject = min(heads, key=lambda each: heads[each].message.sequence)
        delivery = heads[subject]
        yield delivery
        await advance(subject, delivery.message.sequence)


async def _next(api: Api, durable: Durable, subject: str, sequence: int) -> Delivery | None:
    request = {"seq": sequence, "next_by_subj": subject}
    try:
        with _failures():
            answer = await api.request(f"STREAM.MSG.GET.{durable.stream}", API_DEADLINE, request)
    except (RejectedError, DeniedError) as error:
        if isinstance(error, RejectedError) and error.code == NO_MESSAGE_FOUND:
            return None
        raise BusOutage(str(error)) from None
    stored = answer["message"]
    headers, payload = (base64.b64decode(stored.get(name) or "") for name in ("hdrs", "data"))
    message = Message(
        stored["seq"], _ns(stored["time"]), stored["subject"].encode(), headers, payload
    )
    return Delivery(read(message, durable.stream))


def _ns(time: str) -> int:
    """Return RFC 3339 with up to nine digits of a second as ns since 1970."""
    whole, _, fraction = time.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    return seconds * 10**9 + int(fraction.ljust(9, "0") or 0)
