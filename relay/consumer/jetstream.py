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

A lost connection is an attach, too: see ``relay.consumer.link``.
"""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from nats import errors

from relay.consumer.link import API_DEADLINE, ApiError, Link
from relay.consumer.message import Delivery, read, status
from relay.errors import BusOutage, StreamError

EXPIRES: Final = 10.0
"""Seconds for which JetStream keeps a pull open while there is nothing."""

IDLE: Final = 1.0
"""Seconds without a message after which JetStream is asked whether it has delivered one."""

UNDERWAY: Final = 0.2
"""Seconds that a delivery may be under way."""

MOST_PULLED_BYTES: Final = 8 << 20

_NO_CONSUMER: Final = 10014
_NO_STREAM: Final = 10059
_NO_MESSAGE: Final = 10037
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


class Reader:
    """The deliveries of a JetStream consumer since an attach, in its numbers' order."""

    def __init__(self, link: Link, durable: Durable, number: int) -> None:
        """Go on behind the delivery ``number``."""
        self._link = link
        self._durable = durable
        self._number = number
        self._inbox = link.new_inbox()
        self._received: list[Delivery] = []
        self._open = 0
        self._failure: BusOutage | None = None
        self._news = asyncio.Event()
        self._bytes = MOST_PULLED_BYTES
        self._got = 0
        self._pulled_at = 0.0

    async def __aenter__(self) -> Self:
        """Subscribe."""
        self._subscription = await self._link.subscribe(self._inbox)
        self._link.routes[self._subscription._id] = self._take  # noqa: SLF001 - it has no other name
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let JetStream see that nobody waits any more."""
        del self._link.routes[self._subscription._id]  # noqa: SLF001
        with suppress(errors.Error, OSError):
            await self._subscription.unsubscribe()

    async def batch(self, most: int) -> list[Delivery]:
        """Wait for what comes next; empty if nothing has come for ``IDLE`` s.

        Raises:
            Doubt, BusOutage: what comes next is not known.
        """
        if not self._open and not self._received:
            await self._pull(most)
        if not await self._has_news():
            await self._look()
        if self._link.lost.is_set():
            raise BusOutage(f"the connection is lost: {self._link.why or 'closed'}")
        self._news.clear()
        batch, self._received = self._received, []
        if self._failure is not None and not batch:
            raise self._failure
        return batch

    async def _has_news(self) -> bool:
        waits = [
            asyncio.ensure_future(self._news.wait()),
            asyncio.ensure_future(self._link.lost.wait()),
        ]
        try:
            done, _ = await asyncio.wait(waits, timeout=IDLE, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return bool(done)

    async def _look(self) -> None:
        """See that nothing was delivered that has not come here: later ones would tell by a gap."""
        number, where = self._number, f"{self._durable.stream}.{self._durable.name}"
        try:
            info = await self._link.api(self._durable.prefix, f"CONSUMER.INFO.{where}")
        except ApiError as error:
            raise Doubt(str(error)) from None
        if info["delivered"]["consumer_seq"] > number:
            await asyncio.sleep(UNDERWAY)
            if self._number == number:
                raise Doubt("something was delivered to nobody, or to somebody else")
        if self._open and time.monotonic() > self._pulled_at + EXPIRES + API_DEADLINE:
            raise Doubt("a pull was not answered")

    async def _pull(self, most: int) -> None:
        self._open, self._got, self._pulled_at = most, 0, time.monotonic()
        request: dict[str, int] = {"batch": most, "expires": int(EXPIRES * 1e9)}
        if self._bytes:
            request["max_bytes"] = self._bytes
        subject = (
            f"{self._durable.prefix}.CONSUMER.MSG.NEXT.{self._durable.stream}.{self._durable.name}"
        )
        try:
            await self._link.publish(subject, json.dumps(request).encode(), reply=self._inbox)
        except (errors.Error, OSError) as error:
            raise BusOutage(str(error) or type(error).__name__) from None

    def _take(self, subject: bytes, reply: bytes, payload: bytes, headers: bytes | None) -> None:
        delivery = read(subject, reply, payload, headers) if reply else None
        if delivery is None:
            self._end(*status(headers))
        elif self._failure is None and delivery.number != self._number + 1:
            self._failure = Doubt(
                f"delivery {delivery.number} came behind {self._number}: what is between went to "
                "nobody, or to somebody else who reads from this JetStream consumer"
            )
        elif self._failure is None:
            self._number = delivery.number
            self._got += 1
            self._open -= 1
            self._received.append(delivery)
            if not self._open:
                self._bytes = MOST_PULLED_BYTES
        self._news.set()

    def _end(self, code: int, description: str) -> None:
        """Take the status with which JetStream ends a pull."""
        match code:
            case 0 | 100:
                return
            case 409 if description == "Batch Completed":
                return  # the messages' number said so before; another pull may be open by now
            case 404 | 408:
                pass
            case 409 if "MaxBytes" in description and "Request" not in description:
                if not self._got:
                    self._bytes = 0  # one message is larger than all that we ask for
            case _:
                self._failure = Doubt(f"JetStream ended a pull: {code} {description}")
        self._open = 0


@asynccontextmanager
async def attached(
    link: Link, durable: Durable, since: datetime | None
) -> AsyncIterator[tuple[AsyncIterator[Delivery], Reader]]:
    """Attach; give what has to be caught up with, and then the reader of what follows.

    ``since``: when the message at the floor was stored. A durable that was deleted is made anew
    from there.

    Raises:
        StreamError: the stream is missing, or the consumer is not as needed.
        BusOutage: later.
    """
    try:
        info = await _info(link, durable, since)
    except ApiError as error:
        if error.err_code == _NO_STREAM:
            raise StreamError(f"there is no stream {durable.stream!r}: {error}") from None
        raise StreamError(f"JetStream consumer {durable.name!r} can't be used: {error}") from None
    if faults := durable.faults(info["config"]):
        raise StreamError(
            f"JetStream consumer {durable.name!r} of {durable.stream!r}: {'; '.join(faults)}; "
            "change it, or take another name"
        )
    floor, last = info["ack_floor"]["stream_seq"], info["delivered"]["stream_seq"]
    behind = _between(link, durable, floor, last if info["num_ack_pending"] else floor)
    async with Reader(link, durable, info["delivered"]["consumer_seq"]) as reader:
        yield behind, reader


async def _info(link: Link, durable: Durable, since: datetime | None) -> dict[str, Any]:
    """Look at the durable, and make it if it is missing."""
    where = f"{durable.stream}.{durable.name}"
    try:
        return await link.api(durable.prefix, f"CONSUMER.INFO.{where}")
    except ApiError as error:
        if error.err_code != _NO_CONSUMER:
            raise
    make = {"stream_name": durable.stream, "config": durable.config(since)}
    return await link.api(durable.prefix, f"CONSUMER.CREATE.{where}", make)


async def _between(link: Link, durable: Durable, floor: int, last: int) -> AsyncIterator[Delivery]:
    """Read the messages behind ``floor`` up to ``last`` from the stream itself, in order."""
    heads = dict[str, Delivery]()

    async def advance(subject: str, behind: int) -> None:
        heads.pop(subject, None)
        found = await _next(link, durable, subject, behind + 1)
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


async def _next(link: Link, durable: Durable, subject: str, sequence: int) -> Delivery | None:
    request = {"seq": sequence, "next_by_subj": subject}
    try:
        answer = await link.api(durable.prefix, f"STREAM.MSG.GET.{durable.stream}", request)
    except ApiError as error:
        if error.err_code == _NO_MESSAGE:
            return None
        raise BusOutage(str(error)) from None
    stored = answer["message"]
    reply = f"$JS.ACK.{durable.stream}.{durable.name}.1.{stored['seq']}.0.{_ns(stored['time'])}.0"
    headers = base64.b64decode(stored["hdrs"]) if stored.get("hdrs") else None
    payload = base64.b64decode(stored.get("data") or "")
    found = read(stored["subject"].encode(), reply.encode(), payload, headers)
    assert found is not None
    found.ack = ""
    return found


def _ns(time: str) -> int:
    """Return RFC 3339 with up to nine digits of a second as ns since 1970."""
    whole, _, fraction = time.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    return seconds * 10**9 + int(fraction.ljust(9, "0") or 0)
