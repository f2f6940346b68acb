"""A soak from its first round to the verdict.

round: load and faults together ─► faults end ─► load ends ─► heal ─► drained? ─► judged
         next one ◄── clean, and there is time left ─────────────────────────────────┘
"""

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from relay.audit.oracle import Findings
from tests.soak.faults import inflict
from tests.soak.judging import Judge, write_evidence, wrong_dead
from tests.soak.report import Report
from tests.soak.schedule import ROUND, Fault, plan
from tests.soak.world import World, world

DRAIN_WITHIN = 60.0
_FIRST_LEADER_WITHIN = 30.0
_SHORTEST_ROUND = 5.0
_WITH_FAULTS = 0.75
"""Share of the time left that the last round may take; the rest is for draining."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What a soak is told.

    Attributes:
        minutes: how long rounds are begun.
        seed: where all chance comes from.
        first_round: the number of the round to begin with.
        rate: events/s that are committed, bursts aside.
    """

    minutes: float
    seed: int
    first_round: int = 0
    rate: float = 200.0


def soak(options: Options, folder: Path, say: Say) -> Report:
    """Run it; logs and evidence are left in ``folder``.

    Raises:
        DevstackError: a server is not installed, or does not start.
    """
    with world(options.seed, options.rate, folder) as made:
        return _Soak(options, made, say).run()


class _Soak:
    """One soak over a world that has just begun."""

    def __init__(self, options: Options, made: World, say: Say) -> None:
        self._options = options
        self._world = made
        self._say = say
        self._judge = Judge(made)
        self._done: Counter[str] = Counter()
        self._missed: Counter[str] = Counter()
        self._drains: list[float] = []
        self._pause = threading.Event()  # never set: to wait by

    def run(self) -> Report:
        began = time.monotonic()
        ends = began + self._options.minutes * 60
        self._until_led()
        number = self._options.first_round
        while True:
            left = ends - time.monotonic()
            found = self._round(number, min(ROUND, max(left * _WITH_FAULTS, _SHORTEST_ROUND)))
            self._say(f"round {number}: {found}; drained in {self._drains[-1]:.1f} s")
            number += 1
            over = time.monotonic() + _SHORTEST_ROUND > ends
            if over or self._world.violations or not found.is_clean:
                break
        if found.is_clean:
            found = self._judge.everything()
        if not found.is_clean:
            write_evidence(self._world, found, self._world.folder / "evidence.json")
        return self._report(number - self._options.first_round, time.monotonic() - began, found)

    def _until_led(self) -> None:
        deadline = time.monotonic() + _FIRST_LEADER_WITHIN
        while self._world.fleet.leader() is None:
            if time.monotonic() > deadline:
                why = "; ".join(self._world.violations[:1]) or self._world.fleet.log(0)
                raise TimeoutError(f"no relay leads: {why}")
            self._pause.wait(0.1)

    def _round(self, number: int, seconds: float) -> Findings:
        """Run one round to its verdict."""
        began, threads = time.monotonic(), list[threading.Thread]()
        self._world.load.start()
        try:
            for fault in plan(self._options.seed, number, seconds):
                self._pause.wait(max(0.0, began + fault.at - time.monotonic()))
                threads.append(threading.Thread(target=self._inflict, args=(fault,)))
                threads[-1].start()
            self._pause.wait(max(0.0, began + seconds - time.monotonic()))
        finally:
            for thread in threads:
                thread.join()
            self._world.load.stop()
            self._world.heal()
        self._drain()
        self._world.violations.extend(wrong_dead(self._world))
        return self._judge.round()

    def _inflict(self, fault: Fault) -> None:
        params = " ".join(f"{name}={value}" for name, value in fault.params.items())
        self._say(f"{fault.at:6.1f} s  {fault.kind} {params}")
        try:
            happened = inflict(self._world, fault)
        except Exception as error:  # what a fault can't do must be seen, not excused
            self._world.violations.append(f"the soak could not inflict {fault}: {error!r}")
            raise
        (self._done if happened else self._missed)[fault.kind] += 1

    def _drain(self) -> None:
        """Wait until the relays say that nothing is left to do."""
        began = time.monotonic()
        while undone := self._world.undone():
            if time.monotonic() - began > DRAIN_WITHIN:
                self._world.violations.append(f"{DRAIN_WITHIN:g} s after the healing: {undone}")
                break
            self._pause.wait(0.1)
        self._drains.append(time.monotonic() - began)

    def _report(self, rounds: int, seconds: float, found: Findings) -> Report:
        options, made = self._options, self._world
        peak_rss, peak_files = made.watch.peaks()
        return Report(
            minutes=options.minutes,
            seed=options.seed,
            first_round=options.first_round,
            rounds=rounds,
            seconds=seconds,
            committed=len(made.ledger.committed),
            rolled_back=made.ledger.rolled_back,
            stored=made.broker.held()[0],
            dead=len(made.ledger.unstorable),
            done=dict(self._done),
            missed=dict(self._missed),
            verdict=found,
            violations=tuple(made.violations),
            drain_median=statistics.median(self._drains),
            drain_most=max(self._drains),
            recoveries=dict(made.recoveries.seconds),
            relays_started=made.fleet.started,
            survivor=made.watch.survivor(),
            peak_rss=peak_rss,
            peak_files=peak_files,
        )
