"""A temporary folder and the processes in it, which never outlive whoever made them.

An orderly end (return, exception, Ctrl-C) is the owner's ``with`` block. Every other end (SIGTERM,
SIGKILL, a second Ctrl-C) is the reaper's: see ``reaper.py``.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from relay.devstack.errors import DevstackError, PortBusyError

_REAPER = Path(__file__).with_name("reaper.py")
_TAIL_BYTES = 4000
_END_TIMEOUT = 5.0


class Sandbox:
    """One folder, its reaper, and the processes started in it.

    Attributes:
        folder: made here, with mode 0700, and removed at the end.
    """

    def __init__(self, name: str) -> None:
        """Make the folder and start its reaper."""
        self.folder = Path(tempfile.mkdtemp(prefix=f"relay-{name}-"))
        # Its own session: Ctrl-C in a terminal reaches every process of ours, but not this one.
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_REAPER), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        self._live: dict[subprocess.Popen[bytes], signal.Signals] = {}

    def __enter__(self) -> Self:
        """Return the sandbox itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """End what still runs, and remove the folder."""
        for process, tidy_end in list(self._live.items()):
            process.send_signal(tidy_end)
            self.reap(process, _END_TIMEOUT)
        assert self._reaper.stdin is not None
        self._reaper.stdin.close()
        self._reaper.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def spawn(
        self,
        command: Sequence[str],
        *,
        log: Path,
        tidy_end: signal.Signals,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: int | None = None,
        group: int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process that dies with us. Its output is appended to ``log``.

        Args:
            command: the program and its arguments.
            log: opened by us, so that the process needs no right to it; nobody else can read it.
            tidy_end: the signal on which it ends at once but leaves nothing behind.
            env: the whole environment; ours if None.
            cwd: where it runs; the sandbox's folder if None.
            user: drop to this user id, and out of all our groups.
            group: drop to this group id.
        """
        log.touch(mode=0o600)
        with log.open("ab") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd or self.folder,
                start_new_session=True,
                user=user,
                group=group,
                extra_groups=None if user is None else [],
            )
        self._live[process] = tidy_end
        self._record(f"watch {process.pid} {int(tidy_end)}\n")
        return process

    def reap(self, process: subprocess.Popen[bytes], timeout: float) -> int:
        """Wait until a process has ended, SIGKILL it after ``timeout`` s; its exit code."""
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._live.pop(process, None)
        self._record(f"unwatch {process.pid}\n")
        return process.returncode

    def _record(self, line: str) -> None:
        assert self._reaper.stdin is not None
        self._reaper.stdin.write(line.encode())
        self._reaper.stdin.flush()


def wait_until(fact: Callable[[], bool], deadline: float) -> bool:
    """Ask every 5 ms until ``fact`` holds; False if it does not by the monotonic ``deadline``."""
    while not fact():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def tail(log: Path, start: int = 0) -> str:
    """Return the last lines of a log, from byte ``start`` on at the earliest."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(start, end - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def size(log: Path) -> int:
    """Return a log's length in bytes, 0 if it is not there yet."""
    return log.stat().st_size if log.exists() else 0


def failed(what: str, log: Path, start: int = 0) -> DevstackError:
    """Make the error that shows what the server said last; its class says if the port was busy."""
    said = tail(log, start).strip()
    kind = PortBusyError if "address already in use" in said.lower() else DevstackError
    return kind(f"{what}; it said:\n{said}")
