"""Delivery: how many, how late, in which batches, and what wakes the relay."""

from relay.dashboards.grafana import promql
from relay.dashboards.grafana.panels import BAD, GOOD, WARN, Panel, Query, heat, lines, row
from relay.otel import instruments as i

_STREAM = "messaging_destination_name"
_QUANTILES = (0.5, 0.9, 0.99)


def panels() -> list[Panel]:
    """Return the row and its panels."""
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
