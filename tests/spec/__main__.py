"""Exhaust the models: ``python -m tests.spec``, or some of them: ``... bell KEPT_LOCK``.

    model ──spin──► a checker in C ──gcc──► every state that can be reached is looked at
        no define, or a size       ──► holds      or exit 1
        a mistake                  ──► broken     or exit 1: the model would not have seen it
        REACH_...                  ──► found      or exit 1: the model does not get there

A model that must hold, but was not exhausted (depth, memory), or has a line that is never reached,
is a failure as well. Without spin and gcc nothing is checked and the exit code is 0, unless
``RELAY_TEST_REQUIRE_SPIN=1``.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.spec.catalogue import RUNS, Run

PATIENCE = 600.0
TOGETHER = min(2, os.cpu_count() or 1)  # each may need most of a GiB
_COMPILE = ("gcc", "-w", "-DCOLLAPSE", "-DMEMLIM=1900", "-o", "pan", "pan.c")
_LONG, _SHORT = "-O2", "-O0"  # a violation is found sooner than gcc is done optimising
_SAFETY = ("-DSAFETY",)
_LIVENESS = ("-DNFAIR=3",)  # room for a dozen processes
_DEPTH = "-m1000000"
_INCOMPLETE = ("max search depth too small", "Search not completed", "out of memory")


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of one run; ``surprise`` is "" if it showed what it has to."""

    run: Run
    surprise: str
    states: int
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the chosen runs; 0 if each shows what the catalogue says."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.spec", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("words", nargs="*", help="only runs whose name holds all of these")
    words = parser.parse_args(arguments).words
    runs = [run for run in RUNS if all(word in run.name.split() for word in words)]
    if not runs:
        parser.error(f"no run's name holds all of {words}")
    missing = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
    if missing:
        return _skipped(missing)
    surprises = 0
    with ThreadPoolExecutor(TOGETHER) as pool:
        for ran in pool.map(_ran, runs):
            _say(ran)
            surprises += bool(ran.surprise)
    print(f"\n{len(runs) - surprises} of {len(runs)} runs as they have to be")  # noqa: T201 - a command
    return 1 if surprises else 0


def _skipped(missing: Sequence[str]) -> int:
    """Say what is missing; a failure where it is required."""
    if os.environ.get("RELAY_TEST_REQUIRE_SPIN") == "1":
        print(f"failed: {' and '.join(missing)} not found, and required", file=sys.stderr)  # noqa: T201
        return 1
    print(f"skipped: {' and '.join(missing)} not found (Debian: apt-get install spin gcc)")  # noqa: T201
    return 0


def _ran(run: Run) -> Ran:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="relay-spec-") as folder:
        try:
            output = _check(run, Path(folder))
        except subprocess.CalledProcessError as error:
            output = f"{error}: {error.stdout}"
        except subprocess.TimeoutExpired:
            output = f"Search not completed: not done after {PATIENCE:.0f} s"
    states = re.search(r"(\d+) states, stored", output)
    return Ran(
        run, surprise(run, output), int(states[1]) if states else 0, time.monotonic() - began
    )


def _check(run: Run, folder: Path) -> str:
    """Return all that the checker prints about ``run``."""
    kind = _LIVENESS if run.liveness else _SAFETY
    _output(["spin", "-a", *(f"-D{define}" for define in run.defines), str(run.path)], folder)
    _output([*_COMPILE, *kind, _SHORT if run.shows else _LONG], folder)
    return _output(["./pan", _DEPTH, *(("-a", "-f") if run.liveness else ())], folder)


def _output(command: Sequence[str], folder: Path) -> str:
    return subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=True,
    ).stdout


def surprise(run: Run, output: str) -> str:
    """Say how the checker's ``output`` differs from what ``run`` has to show; "" if it doesn't."""
    errors = re.search(r"errors: (\d+)", output)
    violated = re.search(r"^pan:1: (.+)", output, re.MULTILINE)
    if errors is None:
        return f"did not run: {output.strip()[-500:]}"
    if not run.shows:
        if violated is not None or errors[1] != "0":
            return f"broken: {violated[1] if violated else errors[0]}"
        return _unfinished(run, output)
    if violated is None:
        return f"holds, but {run.shows} has to be violated"
    return "" if run.shows in violated[1] else f"violated is {violated[1]}, not {run.shows}"


def _unfinished(run: Run, output: str) -> str:
    """Say why a run without a violation shows nothing; "" if it shows that the model holds."""
    for sign in _INCOMPLETE:
        if sign in output:
            return f"not exhausted: {sign}"
    # An endless process never reaches its end. A variant that holds is no model of the relay.
    lines = re.findall(r"^\t.+\.pml:\d+, state \d+, .+", output, re.MULTILINE)
    unreached = [line.strip() for line in lines if '"-end-"' not in line]
    return f"never reached: {'; '.join(unreached)}" if unreached and not run.variant else ""


def _say(ran: Ran) -> None:
    kind = "holds" if not ran.run.shows else "found" if "REACH_" in ran.run.name else "broken"
    what = f"NOT AS IT HAS TO BE: {ran.surprise}" if ran.surprise else kind
    print(f"{ran.run.name:<34} {what:<7} {ran.states:>10,} states {ran.seconds:6.1f} s", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
