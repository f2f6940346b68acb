"""Run the relay so that it dies or freezes at a named place: ``python -m tests.failpoints run``.

    RELAY_FAILPOINTS=after-read=kill:3,before-settle=stop

      kill   SIGKILL to the own process
      stop   SIGSTOP: it stands still until a SIGCONT comes, then goes on
      exit   ends with code 70, without any tidying up

``:n`` says at which visit, the first unless given; each happens once. All else is the relay's own
command line. ``relay.failpoints`` has the places, and nothing of this.
"""

import logging
import os
import runpy
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

import relay.failpoints
from relay.errors import SettingsError
from relay.failpoints import PLACES, Place

log = logging.getLogger("relay.failpoints")

VARIABLE: Final = "RELAY_FAILPOINTS"
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


def arm(text: str) -> None:
    """Put an action into places of this process."""
    armed = parse(text)
    visits: Counter[Place] = Counter()

    def reach(place: Place) -> None:
        action, visit = armed.get(place, ("", 0))
        visits[place] += 1
        if visits[place] == visit:
            _ACTIONS[action]()

    if armed:
        log.warning("failpoints are on: this process will die or freeze: %s", text)
        unarmed = relay.failpoints.reach
        for module in list(sys.modules.values()):
            names = getattr(module, "__dict__", {})
            if names.get("reach") is unarmed:
                names["reach"] = reach


if __name__ == "__main__":
    try:
        arm(os.environ.pop(VARIABLE, ""))
    except SettingsError as error:
        sys.stderr.writelines(f"relay: {fault}\n" for fault in error.faults)
        sys.exit(2)
    runpy.run_module("relay", run_name="__main__", alter_sys=True)
