"""The one table of what the relay measures; code, dashboards, alerts, the README and tests read it.

Names and units are OpenTelemetry's where its conventions have them (``messaging.*``, ``db.*``), and
ours otherwise. A counter counts up since the process began; a gauge is what was so when it was last
looked at, and has no point at all where nobody looks: a standby reports no backlog, not 0.

``series`` gives an instrument's names in Prometheus, which are the same by our own /metrics, by the
Collector's exporter and by Prometheus' own OTLP endpoint. That is why no unit is ``1``: some of
them append ``_ratio`` to it.
"""

import enum
import re
from dataclasses import dataclass
from typing import Final


class Kind(enum.StrEnum):
    """What an instrument is to OpenTelemetry and to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Instrument:
    """One thing that is measured.

    Attributes:
        unit: by UCUM; a word in braces counts things.
        attributes: which its points can carry; each from a small set of values.
        buckets: a histogram's upper bounds, in ``unit``; a view can replace them.
    """

    name: str
    kind: Kind
    unit: str
    help: str
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


OPERATION_SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
DELIVERY_SECONDS: Final = (
    *(0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
PHASE_SECONDS: Final = (0.0001, 0.00025, 0.0005, *DELIVERY_SECONDS)
BATCH_EVENTS: Final = (
    *(1.0, 2.0, 5.0, 10.0, 25.0, 50.0),
    *(100.0, 250.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0),
)
_MESSAGING: Final = (
    "messaging.system",  # nats
    "messaging.operation.name",  # publish
    "messaging.destination.name",  # the stream; left out where it is not known
)

SENT_MESSAGES: Final = Instrument(
    "messaging.client.sent.messages",
    Kind.COUNTER,
    "{message}",
    "Events handed to JetStream, each try counted; error.type says what came of those not stored:"
    " refused, held, unknown or outage. Not those that the stream is known to hold already, nor"
    " those held up by what is known to take nothing: they are not sent.",
    (*_MESSAGING, "error.type"),
)
PUBLISH_DURATION: Final = Instrument(
    "messaging.client.operation.duration",
    Kind.HISTOGRAM,
    "s",
    "From handing a batch to JetStream until its last answer.",
    (*_MESSAGING, "error.type"),
    OPERATION_SECONDS,
)
DELIVERY_DURATION: Final = Instrument(
    "relay.delivery.duration",
    Kind.HISTOGRAM,
    "s",
    "From created_at (the database's clock) to the PubAck (the relay's): of every event in batches"
    " of up to 16, of 16 spread over a larger one; of 50 batches a second, chosen by chance, where"
    " there are more.",
    ("messaging.destination.name",),
    DELIVERY_SECONDS,
)
PHASE_DURATION: Final = Instrument(
    "relay.delivery.phase.duration",
    Kind.HISTOGRAM,
    "s",
    "What the first event of these batches waited for, but for parked ones. relay.phase is the"
    " wait's end: seen, from created_at (the database's clock) until its page was read; sent, until"
    " it was handed to JetStream, earlier tries included; acknowledged, until the PubAck.",
    ("relay.phase",),
    PHASE_SECONDS,
)
BATCH_SIZE: Final = Instrument(
    "relay.batch.size",
    Kind.HISTOGRAM,
    "{event}",
    "Events handed to JetStream in one call.",
    buckets=BATCH_EVENTS,
)
BACKLOG: Final = Instrument(
    "relay.backlog",
    Kind.GAUGE,
    "{event}",
    "Committed events not settled yet; an estimate above 10,000. Of the leader only.",
)
LAG: Final = Instrument(
    "relay.lag",
    Kind.GAUGE,
    "s",
    "Age of the oldest undelivered event by the database's clock, whoever it waits behind; 0 if"
    " there is none. Of the leader only.",
)
HELD: Final = Instrument(
    "relay.held",
    Kind.GAUGE,
    "{event}",
    "Parked events that an outage of their stream or subject holds up. Of the leader only.",
)
HELD_LAG: Final = Instrument(
    "relay.held.lag",
    Kind.GAUGE,
    "s",
    "Age of the oldest event that such an outage holds up by the database's clock, 0 if there is"
    " none. Of the leader only.",
)
DUPLICATES: Final = Instrument(
    "relay.duplicates",
    Kind.COUNTER,
    "{event}",
    "Events of which JetStream said that it held their message id already, and stored no second"
    " copy. Not those that a relay finds in the stream after a restart or in a repair, and does not"
    " send.",
)
UNVERIFIED: Final = Instrument(
    "relay.duplicates.unverified",
    Kind.COUNTER,
    "{event}",
    "Duplicates of a producer's idempotency key whose stored message could not be looked at: it is"
    " gone, or may not be read.",
)
RETRIES: Final = Instrument(
    "relay.retries",
    Kind.COUNTER,
    "{event}",
    "Events published again because they got no clear answer.",
)
REFUSALS: Final = Instrument(
    "relay.refusals",
    Kind.COUNTER,
    "{event}",
    "Refusals of single events, by JetStream's err_code, or 0 for a check of the relay's own.",
    ("relay.code",),
)
COLLISIONS: Final = Instrument(
    "relay.collisions",
    Kind.COUNTER,
    "{event}",
    "Events under whose message id another event is stored: each is dead at once.",
)
REPAIRED: Final = Instrument(
    "relay.repaired",
    Kind.COUNTER,
    "{event}",
    "Events published again because a stream had lost them after it had acknowledged them.",
)
LOST: Final = Instrument(
    "relay.lost",
    Kind.COUNTER,
    "{event}",
    "Events that a stream had lost and the outbox no longer had, at most: their ids are counted.",
)
UNREPAIRED: Final = Instrument(
    "relay.unrepaired",
    Kind.COUNTER,
    "{stream}",
    "Streams that had lost what they had acknowledged, and RELAY_REPAIR=report left it so.",
)
PARKED: Final = Instrument(
    "relay.parked",
    Kind.GAUGE,
    "{event}",
    "Events in relay.parked, the dead among them. Of the leader only.",
)
DEAD: Final = Instrument(
    "relay.dead",
    Kind.GAUGE,
    "{event}",
    "Parked events that are not tried again by themselves. Of the leader only.",
)
WAKES: Final = Instrument(
    "relay.wakes",
    Kind.COUNTER,
    "{wake}",
    "How often the relay went to read after it had slept, by cause: start, bell, poll.",
    ("relay.cause",),
)
LEADER: Final = Instrument(
    "relay.leader",
    Kind.GAUGE,
    "{leader}",
    "1 while this relay leads, 0 while it stands by or is shut out.",
)
EPOCH: Final = Instrument(
    "relay.epoch",
    Kind.GAUGE,
    "{term}",
    "The number of this relay's term, or of its last one; none before its first.",
)
BREAKER_STATE: Final = Instrument(
    "relay.breaker.state",
    Kind.GAUGE,
    "{state}",
    "0 closed, 1 half-open, 2 open; by breaker: lag (events are late) or bus (NATS is away).",
    ("relay.breaker",),
)
OUTAGE: Final = Instrument(
    "relay.outage",
    Kind.GAUGE,
    "{outage}",
    "1 while the side is away: postgres or nats. Also while no look at the backlog has succeeded"
    " for 30 s: the figures of the backlog are old.",
    ("relay.side",),
)
HOLD: Final = Instrument(
    "relay.hold",
    Kind.GAUGE,
    "{hold}",
    "Streams, or parts of one, that take nothing, while the events of others flow.",
)
DATABASE_DURATION: Final = Instrument(
    "db.client.operation.duration",
    Kind.HISTOGRAM,
    "s",
    "What the relay asks of Postgres took: read, settle, blocked, due, look, tend, report, renew,"
    " streams, keep_streams. Reads that found nothing are left out.",
    ("db.system.name", "db.operation.name", "error.type"),
    OPERATION_SECONDS,
)
OUTBOX_SIZE: Final = Instrument(
    "relay.outbox.size",
    Kind.GAUGE,
    "By",
    "Bytes of the outbox table with its indexes. Of the leader only.",
)
DEAD_ROWS: Final = Instrument(
    "relay.outbox.dead_rows",
    Kind.GAUGE,
    "{row}",
    "Dead rows of the outbox table that vacuum has not removed, as Postgres estimates them."
    " Of the leader only.",
)
OLDEST_TRANSACTION: Final = Instrument(
    "relay.postgres.oldest_transaction",
    Kind.GAUGE,
    "s",
    "Age of the oldest transaction that holds back vacuum in this database; none where the relay's"
    " role may not see all of them (grant it pg_read_all_stats). Of the leader only.",
)
SESSIONS: Final = Instrument(
    "relay.postgres.sessions",
    Kind.GAUGE,
    "{session}",
    "This relay's open Postgres sessions, by duty. Of the leader only.",
    ("relay.duty",),
)
STREAM_MESSAGES: Final = Instrument(
    "relay.stream.messages",
    Kind.GAUGE,
    "{message}",
    "Messages in each stream that the relay has published to. Of the leader only.",
    ("messaging.destination.name",),
)
STREAM_SIZE: Final = Instrument(
    "relay.stream.size",
    Kind.GAUGE,
    "By",
    "Bytes in each stream that the relay has published to. Of the leader only.",
    ("messaging.destination.name",),
)

INSTRUMENTS: Final = tuple(each for each in globals().values() if isinstance(each, Instrument))
"""All there are, in the order in which a person reads them, which is that of this file."""

_UNITS: Final = {"s": "_seconds", "By": "_bytes"}


def series(instrument: Instrument) -> tuple[str, ...]:
    """Return the names of its series in Prometheus, e.g. ``relay_lag_seconds``."""
    name = _sanitized(instrument.name) + _UNITS.get(instrument.unit, "")
    match instrument.kind:
        case Kind.COUNTER:
            return (f"{name}_total",)
        case Kind.HISTOGRAM:
            return tuple(f"{name}_{part}" for part in ("bucket", "sum", "count"))
        case Kind.GAUGE:
            return (name,)


def labels(instrument: Instrument) -> tuple[str, ...]:
    """Return the labels that its series can carry in Prometheus, e.g. ``error_type``."""
    return tuple(map(_sanitized, instrument.attributes))


def _sanitized(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9]+", "_", name)
