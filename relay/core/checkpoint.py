"""How far a stream was when something was settled, and whether it still is: values, no I/O.

    a checkpoint      all that its place of the cursor has passed is in the stream, at or before seq
    judged later      the same message at seq: it holds, and so does all before it
                      another message there, or a lower last sequence: the stream is behind
                      none there: no evidence, for limits and consumers delete messages
                      another time of creation: another stream

Source of the ring: the ruler sequence. What a number replaces is chosen by how often 2 divides it,
so that four of every power of two stay.
"""

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Final

RING_PLACES: Final = 4
_STEPS_BACK: Final = 3
"""A settlement that failed may have skipped a number, whose predecessor goes a step later."""


@dataclass(frozen=True, slots=True)
class Tip:
    """How far a stream was.

    Attributes:
        stream: its name.
        created: when it was created, as the server writes it.
        seq: its newest message of ours; or, with an empty ``message_id``, the last of any.
        message_id: that message's; "" if it is not known.
        sure: whether it is that message beyond doubt: the answer to a batch on a stream that others
            publish to as well leaves room for another one of the batch.
        after: the sequence behind which messages of ours can stand that are not settled.
    """

    stream: str
    created: str
    seq: int
    message_id: str = ""
    sure: bool = False
    after: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tip as it was settled.

    Attributes:
        tip: how far the stream was.
        number: ascends by one with each that is kept of its stream.
        position: where the cursor stood; opaque.
        top_id: the highest event id that had been delivered by then.
        age: s since the settlement, by the database's clock.
        at: when it was settled, by that clock; None: before anything.
    """

    tip: Tip
    number: int = 0
    position: object = None
    top_id: int = 0
    age: float = 0.0
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Setback:
    """What a stream has lost, and how far the cursor went back for it.

    Attributes:
        stream: its name.
        seq: up to which it still holds what it acknowledged.
        after_id, up_to_id: what it lost are events of these ids, the first one excluded.
        gone_from, gone_to: those of them that the outbox no longer has; None if it has all.
    """

    stream: str
    seq: int
    after_id: int
    up_to_id: int
    gone_from: int | None = None
    gone_to: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A message at a sequence: its Nats-Msg-Id and Relay-Event-Id, "" where it has none."""

    message_id: str
    event_id: str


class Verdict(enum.StrEnum):
    """What a look at a checkpoint's sequence says."""

    HOLDS = "holds"
    NO_EVIDENCE = "no evidence"
    BEHIND = "behind"
    REMADE = "made anew"


def judge(tip: Tip, *, created: str, last_seq: int, found: Found | None) -> Verdict:
    """Compare a stream with what it once was.

    Args:
        tip: what it was.
        created: when the stream was created that there is now.
        last_seq: its last sequence now.
        found: the message at ``tip.seq``; None if there is none, or nobody asked.
    """
    if created != tip.created:
        return Verdict.REMADE
    if last_seq < tip.seq:
        return Verdict.BEHIND
    if not tip.message_id or found is None:
        return Verdict.NO_EVIDENCE
    if found.message_id == tip.message_id:
        return Verdict.HOLDS
    if tip.sure or not found.event_id:
        return Verdict.BEHIND
    return Verdict.NO_EVIDENCE


def replaced_by(number: int) -> list[int]:
    """Return the numbers of the checkpoints of a stream that go when ``number``, from 1, comes."""
    apart = 2 * RING_PLACES * (number & -number)
    return list(range(number - apart, 0, -apart)[:_STEPS_BACK])
