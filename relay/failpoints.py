"""Named places in the relay where a test lets it die or freeze: ``reach("before settle")``.

    RELAY_FAILPOINTS=after-read=kill:3,before-settle=stop     before the process starts

      kill   SIGKILL to the own process
      stop   SIGSTOP: it stands still until a SIGCONT comes, then goes on
      exit   ends with code 70, without any tidying up

``:n`` says at which visit, the first unless given; each happens once. The variable is read when
this module is imported, and nothing else is authoritative. A value that can't be read raises
``SettingsError`` there, before anything is connected; one that can is told in a WARNING.

Without the variable ``reach`` is a function that does nothing: a call takes 30 ns, and the relay
makes a few for each page, none for an event.
"""

import logging
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, Literal, get_args

from relay.errors import SettingsError

log = logging.getLogger("relay.failpoints")

VARIABLE: Final = "RELAY_FAILPOINTS"

Place = Literal[
    "after read",
    "before send",
    "after send",
    "before ack",
    "after ack",
    "before settle",
    "after settle",
]
PLACES: Final[tuple[Place, ...]] = get_args(Place)
"""In the order in which a page meets them."""

EXIT_CODE: Final = 70

# raise_signal and not kill: it goes to this very thread, which therefore takes no further step.
_ACTIONS: Final[Mapping[str, Callable[[], None]]] = {
    "kill": lambda: signal.raise_signal(signal.SIGKILL),
    "stop": lambda: signal.raise_signal(signal.SIGSTOP),
    "exit": lambda: os._exit(EXIT_CODE),
}


def parse(text: str) -> dict[Place, tuple[str, int]]:
    """Read the variable's value: the action of each place, and at which visit.

    Raises:
        SettingsError: names every part that can't be read, and what can be written instead.
    """
    places = {place.replace(" ", "-"): place for place in PLACES}
    armed: dict[Place, tuple[str, int]] = {}
    faults = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, what = part.partition("=")
        action, colon, visit = what.partition(":")
        if name not in places:
            faults.append(f"{part!r} names no place: write one of {', '.join(places)}")
        elif action not in _ACTIONS:
            faults.append(f"{part!r} names no action: write one of {', '.join(_ACTIONS)}")
        elif colon and not (visit.isascii() and visit.isdigit() and int(visit)):
            faults.append(f"{part!r} needs the number of a visit behind the colon: 1 or more")
        elif places[name] in armed:
            faults.append(f"{part!r} is for a place that has an action already: keep one of them")
        else:
            armed[places[name]] = (action, int(visit or 1))
    if faults:
        whole = f"{VARIABLE} (environment)"
        raise SettingsError([f"{whole}: {fault}, or take it out" for fault in faults])
    return armed


def armed_reach(armed: Mapping[Place, tuple[str, int]]) -> Callable[[Place], None]:
    """Make a ``reach`` that counts the visits and acts at those of ``armed``."""
    visits: Counter[Place] = Counter()

    def reach_armed(place: Place) -> None:
        action, visit = armed.get(place, ("", 0))
        visits[place] += 1
        if visits[place] == visit:
            _ACTIONS[action]()

    return reach_armed


def _chosen(text: str) -> Callable[[Place], None]:
    armed = parse(text)
    if not armed:
        return _nothing
    shown = ",".join(
        f"{place.replace(' ', '-')}={what}:{at}" for place, (what, at) in armed.items()
    )
    log.warning("failpoints are on: this process will die or freeze", extra={"failpoints": shown})
    return armed_reach(armed)


def _nothing(_place: Place) -> None:
    """Do nothing: failpoints are off."""


reach: Final = _chosen(os.environ.get(VARIABLE, ""))
"""Say that the relay is at ``place`` now."""
