"""What the page says of a stream that lost messages."""

from relay.facts import RepairEnded, StreamLost
from relay.http.summary import Level, summarize
from tests.http.test_health import LEADS, healthy


def test_what_a_stream_lost_is_said_while_and_after_it_is_published_again() -> None:
    lost = StreamLost("ORDERS", repairing=True, seq=5, after_id=10, up_to_id=20)
    summary = summarize(healthy(*LEADS, lost), dead=0)
    assert (summary.level, summary.headline) == (
        Level.DEGRADED,
        "Degraded: a stream lost messages",
    )
    assert any("ORDERS had lost messages" in reason for reason in summary.reasons)
    after = summarize(healthy(*LEADS, lost, RepairEnded(10)), dead=0, repaired=10, lost=3)
    assert after.level is Level.HEALTHY
    assert "10 events were published again: a stream had lost them." in after.reasons
    assert any("Up to 3 events" in reason for reason in after.reasons)
