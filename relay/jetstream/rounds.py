"""Sorts the events of one call into lanes, and the lanes into rounds (R-ORDER: see ``bus``)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from relay.core.event import Event
from relay.core.order import WAITS, KeyFence
from relay.core.outcome import Held, Outcome
from relay.jetstream.routing import Route
from relay.jetstream.streams import Stream

Outcomes = list[Outcome | None]
"""One an event; None where the connection was lost first."""

Lane = tuple[Stream, bool]
"""A stream, and whether its events go by the windowed path."""

Round = dict[Lane, list[int]]
"""The places of each lane's events in the call, ascending."""


def rounds_of(
    events: Sequence[Event],
    routes: Mapping[str, Route],
    outcomes: Outcomes,
    lane_of: Callable[[Event, Stream], Lane],
) -> list[Round]:
    """Sort ``events``; those that go nowhere, and those behind them, get their outcome here."""
    rounds: list[Round] = [{}]
    last: dict[str, tuple[Lane, int]] = {}
    fence = KeyFence()
    held = {
        subject: replace(route, sent=False)
        for subject, route in routes.items()
        if isinstance(route, Held)
    }
    for place, event in enumerate(events):
        key, route = event.key, routes[event.subject]
        if not fence.passes(key):
            outcomes[place] = WAITS
            continue
        if not isinstance(route, Stream):
            outcomes[place] = held.get(event.subject, route)
            fence.close(key)
            continue
        lane, turn = lane_of(event, route), 0
        if key is not None:
            before, turn = last.get(key, (lane, 0))
            turn += before != lane
            last[key] = (lane, turn)
            if turn == len(rounds):
                rounds.append({})
        rounds[turn].setdefault(lane, []).append(place)
    return rounds
