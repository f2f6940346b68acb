"""The events of one call, sorted by stream, in rounds. Pure.

    round 1   stream A: k1 k2 k1     stream B: k3       at once, in any order
    round 2   stream B: k1                              once all of round 1 has its outcome

A stream keeps the order of a key by itself. Between streams only waiting does: an event whose key
stands before it in another stream goes a round later. Most calls have one round.
"""

from collections.abc import Mapping, Sequence

from relay.core.event import Event
from relay.core.ordering import WAITS
from relay.core.outcome import Outcome
from relay.jetstream.known import Stream
from relay.jetstream.streams import Route

Round = dict[str, tuple[Stream, list[int]]]
"""Stream names to streams, each with the places of its events in the call, ascending."""


def sole_stream(routes: Mapping[str, Route]) -> Stream | None:
    """Return the stream that all go to; None if they go apart, or if one goes nowhere."""
    first, *others = routes.values()
    if not isinstance(first, Stream) or any(route is not first for route in others):
        return None
    return first


def rounds_of(
    routes: Mapping[str, Route], events: Sequence[Event], outcomes: list[Outcome | None]
) -> list[Round]:
    """Sort ``events``; those that go nowhere, and those behind them, get their outcome here."""
    rounds: list[Round] = [{}]
    last: dict[str, tuple[str, int]] = {}
    stuck: set[str] = set()
    for place, event in enumerate(events):
        key, route = event.key, routes[event.subject]
        if key is not None and key in stuck:
            outcomes[place] = WAITS
            continue
        if not isinstance(route, Stream):
            outcomes[place] = route
            if key is not None:
                stuck.add(key)
            continue
        turn = 0
        if key is not None:
            before, turn = last.get(key, (route.name, 0))
            turn += before != route.name
            last[key] = (route.name, turn)
            if turn == len(rounds):
                rounds.append({})
        rounds[turn].setdefault(route.name, (route, []))[1].append(place)
    return rounds
