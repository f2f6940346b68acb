"""Ends what its starter could not end itself. Run as a script; imports nothing of ours.

Stdin is the lifeline: the starter holds the other end, so it closes with the starter, however
that dies (SIGKILL included, and on every POSIX system, unlike a parent-death signal, which also
fires when only the *thread* that forked ends). Lines that come through it:

    watch PID SIGNAL    end this process; SIGNAL is its way to end at once but tidily
    unwatch PID         it has been waited for: the number may belong to somebody else by now

At the end of the file: signal what is still watched, SIGKILL it after GRACE s, remove the folder
given as the argument. After an orderly end there is nothing left to do.
"""

import contextlib
import os
import shutil
import signal
import sys
import time

GRACE = 3.0


def main(folder: str) -> None:
    """Wait for the starter's end, then clean up."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    watched: dict[int, int] = {}
    for line in sys.stdin:
        verb, pid, *rest = line.split()
        if verb == "watch":
            watched[int(pid)] = int(rest[0])
        else:
            watched.pop(int(pid), None)
    for pid, number in watched.items():
        _kill(pid, number)
    deadline = time.monotonic() + GRACE
    while any(map(runs, watched)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in watched:
        _kill(pid, signal.SIGKILL)
    # Children of a killed server may still write for a moment: a folder that is not empty stays.
    while os.path.isdir(folder) and time.monotonic() < deadline + GRACE:  # noqa: PTH112 - as below
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Whether a process is there and not just waiting for its parent to notice its end.

    The parent of an orphan is process 1, which in many containers looks once a second at most.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - pathlib triples our start
            return stat.read().rpartition(b") ")[2][:1] != b"Z"
    except FileNotFoundError:
        return not os.path.isdir("/proc/self")  # noqa: PTH112 - as above; not Linux, so no /proc


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    main(sys.argv[1])
