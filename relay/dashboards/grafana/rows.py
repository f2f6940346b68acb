"""The rows over time, in the order in which a person reads them: see ``now`` for the first one."""

from relay.dashboards.grafana import promql
from relay.dashboards.grafana.now import BREAKERS, ROLES, SIDES
from relay.dashboards.grafana.panels import BAD, GOOD, WARN, Panel, Query, heat, lines, row, states
from relay.otel import instruments as i

_STREAM = "messaging_destination_name"
_OPERATION = "db_operation_name"
_QUANTILES = (0.5, 0.9, 0.99)


def delivery() -> list[Panel]:
    """Return the row Delivery: how many, how late, in which batches, what wakes the relay."""
    return [row("Delivery"), *_rates(), *_latencies(), *_rhythm()]


def _rates() -> list[Panel]:
    return [
        lines(
            "Stored, by stream",
            "Events that JetStream acknowledged. A stream that falls to nothing while others flow"
            " is held: see the row Faults.",
            Query(
                promql.per_second(i.SENT_MESSAGES, _STREAM, where=(promql.WENT_WELL,)),
                f"{{{{{_STREAM}}}}}",
            ),
            unit="eps",
            stacked=True,
            width=12,
        ),
        lines(
            "Lag and delivery time",
            "Lag: how old the oldest undelivered event is. held: the same of those that an outage"
            " of their stream holds up. p50 to p99: from an event's being"
            " written to its acknowledgement. Lag alone rises: something is stuck. All rise:"
            " something is slow.",
            Query(promql.highest(i.LAG), "lag"),
            Query(promql.highest(i.HELD_LAG), "held"),
            *(
                Query(promql.quantile(each, i.DELIVERY_DURATION), f"p{each * 100:g}")
                for each in _QUANTILES
            ),
            unit="s",
            steps=((None, GOOD), (5, WARN), (60, BAD)),
            width=12,
        ),
    ]


def _latencies() -> list[Panel]:
    return [
        heat(
            "Delivery time",
            "How many events took how long from being written to the acknowledgement. One band"
            " low down is health; a second band above it is what waits for the poll, for a retry"
            " or for a slow stream.",
            Query(promql.cells(i.DELIVERY_DURATION), "{{le}}"),
            unit="s",
            width=8,
        ),
        lines(
            "Delivery p99, by phase",
            "What the slowest batch of a hundred waited for. seen: from an event's being written"
            " until the relay read it; its producer's transaction counts. sent: in the relay,"
            " behind the batch before or between two tries. acknowledged: for JetStream.",
            Query(promql.quantile(0.99, i.PHASE_DURATION, "relay_phase"), "{{relay_phase}}"),
            unit="s",
        ),
        heat(
            "Batch size",
            "Events handed to JetStream in one call. Small at rest; near"
            " RELAY_MAX_BATCH_SIZE the relay is draining a backlog.",
            Query(promql.cells(i.BATCH_SIZE), "{{le}}"),
            width=8,
            unit="short",
        ),
    ]


def _rhythm() -> list[Panel]:
    return [
        lines(
            "Wakes, by cause",
            "How often the relay went to read after it had slept. bell: a writer woke it."
            " Mostly poll while events flow: LISTEN does not work, as behind a pooler; the log"
            " says so, and events wait up to RELAY_POLL_INTERVAL.",
            Query(promql.per_second(i.WAKES, "relay_cause"), "{{relay_cause}}"),
            unit="cps",
            stacked=True,
            width=12,
        ),
        lines(
            "Backlog",
            "Committed events not settled yet, an estimate above 10,000. If it grows while events"
            " are stored, the producers are faster: see the rows Postgres and JetStream for what"
            " is slow.",
            Query(promql.highest(i.BACKLOG), "backlog"),
            unit="short",
            width=12,
        ),
    ]


def faults() -> list[Panel]:
    """Return the row Faults: what was not stored and why, who waits and leads, what is away."""
    return [row("Faults"), *_not_stored(), *_kept(), *_states()]


def _not_stored() -> list[Panel]:
    return [
        lines(
            "Not stored, by reason",
            "Tries that did not end in the stream. refused: the event can't be stored as it is,"
            " and is parked. held: its stream takes nothing now. unknown: no clear answer, it is"
            " published again. outage: NATS is away.",
            Query(
                promql.per_second(i.SENT_MESSAGES, "error_type", where=(promql.FAILED,)),
                "{{error_type}}",
            ),
            unit="eps",
            stacked=True,
        ),
        lines(
            "Refusals, by code",
            "JetStream's err_code; 0 is a check of the relay's own, such as an event over the"
            " server's limit or a subject that no stream takes. The reasons in words:"
            " `python -m relay dead list --parked`.",
            Query(promql.per_second(i.REFUSALS, "relay_code"), "{{relay_code}}"),
            unit="eps",
            stacked=True,
        ),
        lines(
            "Retries and duplicates",
            "Retries: published again for want of a clear answer. Duplicates: JetStream held the"
            " message id already and stored no second copy. Both after an outage are the promise"
            " kept; all the time, answers get lost: look at the network and at JetStream's time."
            " Unverified: the stored message of a producer's key is gone, or may not be read."
            " Collisions: another event is stored under the id, and this one is dead.",
            Query(promql.per_second(i.RETRIES), "retries"),
            Query(promql.per_second(i.DUPLICATES), "duplicates"),
            Query(promql.per_second(i.UNVERIFIED), "unverified"),
            Query(promql.per_second(i.COLLISIONS), "collisions"),
            unit="eps",
        ),
    ]


def _kept() -> list[Panel]:
    return [
        lines(
            "Lost by a stream",
            "Repaired: published again, for a stream had lost them after it had acknowledged them:"
            " a power cut, an older copy of its store. Lost: no longer in the outbox; the relay's"
            " log names their ids. Streams left so: with RELAY_REPAIR=report a person decides.",
            Query(promql.per_second(i.REPAIRED), "repaired"),
            Query(promql.per_second(i.LOST), "lost"),
            Query(promql.per_second(i.UNREPAIRED), "streams left so"),
            unit="eps",
        ),
        lines(
            "Parked and dead",
            "Events in relay.parked, and among them the dead and those held up by an outage of"
            " their stream. All but the dead are tried again by themselves; the dead wait for"
            " `python -m relay dead retry` or `drop`.",
            Query(promql.highest(i.PARKED), "parked"),
            Query(promql.highest(i.DEAD), "dead"),
            Query(promql.highest(i.HELD), "held"),
            unit="short",
        ),
        lines(
            "Held streams",
            "Streams, or parts of one, that take nothing, while the others flow. The relay's log"
            ' says which and why ("takes nothing now"): full, offline, no permission.',
            Query(promql.highest(i.HOLD), "held"),
            unit="short",
        ),
    ]


def _states() -> list[Panel]:
    return [
        states(
            "Who leads",
            "Each relay over time. A new term every few minutes: the leader loses its Postgres"
            " session, or dies; look at its log for the reason of each end.",
            Query(promql.highest(i.LEADER, "instance"), "{{instance}}"),
            meanings=ROLES,
            width=24,
        ),
        lines(
            "Term",
            "The number of the newest term. Each step is a new leader; steps are also marked on"
            " every panel.",
            Query(promql.highest(i.EPOCH), "term"),
            unit="none",
        ),
        states(
            "Breakers",
            "lag: the oldest event is too old. bus: NATS is away, and single tries go through.",
            Query(promql.highest(i.BREAKER_STATE, "relay_breaker"), "{{relay_breaker}}"),
            meanings=BREAKERS,
        ),
        states(
            "Sides",
            "When Postgres or NATS did not answer. Nothing is lost meanwhile; events wait.",
            Query(promql.highest(i.OUTAGE, "relay_side"), "{{relay_side}}"),
            meanings=SIDES,
        ),
    ]


def postgres() -> list[Panel]:
    """Return the row Postgres: what the relay asks of it, and what the outbox weighs."""
    return [row("Postgres"), *_statements(), *_outbox()]


def _statements() -> list[Panel]:
    return [
        lines(
            "Statements p99",
            "Time of what the relay asks of Postgres. settle slow: the disk, or a lock on the"
            " cursor row. read slow: a cold cache, or a plan that lost the index: analyze the"
            " outbox.",
            Query(promql.quantile(0.99, i.DATABASE_DURATION, _OPERATION), f"{{{{{_OPERATION}}}}}"),
            unit="s",
        ),
        lines(
            "Statements per second",
            "Reads that found nothing are left out, so this follows the load.",
            Query(promql.per_second(i.DATABASE_DURATION, _OPERATION), f"{{{{{_OPERATION}}}}}"),
            unit="ops",
            stacked=True,
        ),
        lines(
            "Statements that failed",
            "By what was asked and how it ended. A few at an outage belong to it. tend, look or"
            " report again and again: housekeeping fails, and the outbox grows; see the log.",
            Query(
                promql.per_second(
                    i.DATABASE_DURATION, _OPERATION, "error_type", where=(promql.FAILED,)
                ),
                f"{{{{{_OPERATION}}}}} {{{{error_type}}}}",
            ),
            unit="ops",
            stacked=True,
        ),
    ]


def _outbox() -> list[Panel]:
    return [
        lines(
            "Outbox size",
            "The outbox table with its indexes: about RELAY_RETENTION's worth of events. Grows on:"
            " pruning fails, or a backlog waits, or vacuum is held back.",
            Query(promql.highest(i.OUTBOX_SIZE), "outbox"),
            unit="bytes",
            width=6,
        ),
        lines(
            "Dead rows",
            "Rows that pruning deleted and vacuum has not removed. Delivery does not slow down by"
            " them, the table grows.",
            Query(promql.highest(i.DEAD_ROWS), "dead rows"),
            unit="short",
            width=6,
        ),
        lines(
            "Oldest transaction",
            "The oldest transaction of this database holds back vacuum. Find it:"
            " `select pid, state, xact_start, query from pg_stat_activity order by xact_start`."
            " No value: grant the relay's role pg_read_all_stats.",
            Query(promql.highest(i.OLDEST_TRANSACTION), "oldest transaction"),
            unit="s",
            steps=((None, GOOD), (900, WARN), (1800, BAD)),
            width=6,
        ),
        lines(
            "Sessions",
            "The leader's open Postgres sessions, by duty. There is no pool: this many connections"
            " it takes, and no more.",
            Query(promql.highest(i.SESSIONS, "relay_duty"), "{{relay_duty}}"),
            unit="short",
            stacked=True,
            width=6,
        ),
    ]


def jetstream() -> list[Panel]:
    """Return the row JetStream: how long it takes to answer, and what its streams hold."""
    return [
        row("JetStream"),
        lines(
            "Publish p50 and p99",
            "From handing a batch to JetStream until its last answer. p99 high, p50 low: the"
            " server syncs, compacts or elects. Both high: the server or the network is slow.",
            Query(promql.quantile(0.5, i.PUBLISH_DURATION), "p50"),
            Query(promql.quantile(0.99, i.PUBLISH_DURATION), "p99"),
            unit="s",
        ),
        lines(
            "Messages in the stream",
            "Flat while events are stored: the stream is at its limit and discards old messages."
            " A fall: it was purged, or is another one.",
            Query(promql.highest(i.STREAM_MESSAGES, _STREAM), f"{{{{{_STREAM}}}}}"),
            unit="short",
        ),
        lines(
            "Bytes in the stream",
            "Against the stream's max_bytes and the server's disk: with discard=new a full stream"
            " takes nothing, and its events are held.",
            Query(promql.highest(i.STREAM_SIZE, _STREAM), f"{{{{{_STREAM}}}}}"),
            unit="bytes",
        ),
    ]
