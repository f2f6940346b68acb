"""Faults: what was not stored and why, what waits for people, who leads, what is away."""

from relay.dashboards.grafana import promql
from relay.dashboards.grafana.now import BREAKERS, ROLES, SIDES
from relay.dashboards.grafana.panels import Panel, Query, lines, row, states
from relay.otel import instruments as i


def panels() -> list[Panel]:
    """Return the row and its panels."""
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
            " log names their ids.",
            Query(promql.per_second(i.REPAIRED), "repaired"),
            Query(promql.per_second(i.LOST), "lost"),
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
