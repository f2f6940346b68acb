"""The JetStream side: how long it takes to answer, and what its streams hold."""

from relay.dashboards.grafana import promql
from relay.dashboards.grafana.panels import Panel, Query, lines, row
from relay.otel import instruments as i

_STREAM = "messaging_destination_name"


def panels() -> list[Panel]:
    """Return the row and its panels."""
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
