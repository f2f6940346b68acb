"""Memory and open files of every relay process, sampled over its life (Linux only).

The survivor is never ended, so its first quartile against its last one shows a leak; the others
show what a relay needs at most.
"""

import statistics
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from tests.soak.fleet import Fleet

EVERY = 1.0
SETTLED_AFTER = 5.0
"""Seconds of a process's life that are left out: it is still importing."""

_PAGE = 4096


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a process: monotonic time, resident memory in bytes, open files."""

    at: float
    rss: int
    files: int


@dataclass(frozen=True, slots=True)
class Trend:
    """Medians of a process's first and last quartile, and its peaks; memory in bytes."""

    samples: int
    rss_first: float
    rss_last: float
    rss_most: int
    files_first: float
    files_last: float
    files_most: int


class Watch:
    """Samples until ``close``."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._samples: dict[int, list[Sample]] = defaultdict(list)
        self._survivor = fleet.slots[0].pid
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def survivor(self) -> Trend | None:
        """Return the trend of the process that no fault ends."""
        return trend(self._samples[self._survivor])

    def peaks(self) -> tuple[int, int]:
        """Return the most memory and the most open files of any relay."""
        every = [sample for samples in self._samples.values() for sample in samples]
        return max((s.rss for s in every), default=0), max((s.files for s in every), default=0)

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(EVERY):
            for slot in self._fleet.slots:
                pid = slot.pid
                if (sample := look_at(pid)) is not None:
                    self._samples[pid].append(sample)


def look_at(pid: int) -> Sample | None:
    """Sample a process; None if it has ended, or this is no Linux."""
    process = Path(f"/proc/{pid}")
    try:
        rss = int((process / "statm").read_text(encoding="ascii").split()[1]) * _PAGE
        files = len(list((process / "fd").iterdir()))
    except OSError:
        return None
    return Sample(time.monotonic(), rss, files) if rss else None


def trend(samples: list[Sample]) -> Trend | None:
    """Compare the first quartile with the last one; None if there is too little to compare."""
    settled = [each for each in samples if each.at - samples[0].at > SETTLED_AFTER]
    quarter = len(settled) // 4
    if quarter == 0:
        return None
    first, last = settled[:quarter], settled[-quarter:]
    return Trend(
        len(settled),
        statistics.median(each.rss for each in first),
        statistics.median(each.rss for each in last),
        max(each.rss for each in settled),
        statistics.median(each.files for each in first),
        statistics.median(each.files for each in last),
        max(each.files for each in settled),
    )
