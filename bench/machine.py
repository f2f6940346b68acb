"""What the figures were taken on, and how quiet it was meanwhile.

A shared virtual machine takes time away and says so (``steal``); a fixed piece of Python work,
timed before each scenario, says the rest: figures of two reports are comparable if that is.
"""

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psycopg

from bench.stack import Stack
from relay import devstack

PACKAGES = ("nats-py", "psycopg", "uvloop")
CALIBRATION_LOOPS = 2_000_000


def machine(servers: Stack) -> dict[str, Any]:
    """Return the machine, its software, and the commit that is measured."""
    with psycopg.connect(servers.postgres.dsn) as connection:
        row = connection.execute("show server_version").fetchone()
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "memory_gib": _memory_gib(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "postgres": str(row[0]) if row else "?",
        "nats_server": _output([str(devstack.find_nats_server()), "--version"]).split(" v")[-1],
        **{name.replace("-", "_"): _version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def calibrate() -> float:
    """Return the seconds that a fixed loop of plain Python takes now."""
    began, total = time.perf_counter(), 0
    for number in range(CALIBRATION_LOOPS):
        total += number & 7
    return time.perf_counter() - began


class Steal:
    """The share of processor time that somebody else took away since this was made."""

    def __init__(self) -> None:
        """Begin now."""
        self._before = _ticks()

    def percent(self) -> float | None:
        """Return it in %; None where the kernel does not say."""
        after = _ticks()
        if self._before is None or after is None or after[1] == self._before[1]:
            return None
        return 100 * (after[0] - self._before[0]) / (after[1] - self._before[1])


def _ticks() -> tuple[int, int] | None:
    """(stolen, all) processor ticks since boot."""
    try:
        first = Path("/proc/stat").read_text().splitlines()[0]
    except OSError:
        return None
    ticks = [int(word) for word in first.split()[1:9]]  # guest time is in user time already
    return ticks[7], sum(ticks)


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "?"


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _commit() -> str:
    folder = str(Path(__file__).parents[1])
    commit = _output(["git", "-C", folder, "rev-parse", "--short", "HEAD"])
    changed = _output(["git", "-C", folder, "status", "--porcelain", "--untracked-files=no"])
    return f"{commit} and changes" if commit and changed else commit or "?"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
