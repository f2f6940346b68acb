"""A temporary folder, the processes and servers in it, which never outlive who made them.

An orderly end (return, exception, Ctrl-C) is the owner's ``with`` block. Every other end (SIGTERM,
SIGKILL, a second Ctrl-C) is the reaper's: see ``reaper.py``.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from relay.errors import RelayError

_REAPER = Path(__file__).with_name("reaper.py")
_TAIL_BYTES = 4000
_END_TIMEOUT = 5.0
_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 20.0
_BUSY_TIMEOUT = 10.0
_BUSY_PAUSE = 0.1
_PORTS = range(20_000, 30_000)


class DevstackError(RelayError):
    """A throw-away server is not installed, or could not be started, stopped or run as asked."""


class PortBusyError(DevstackError):
    """Another program listens on the server's port."""


class Sandbox:
    """One folder (``folder``, mode 0700, removed at the end) and the processes started in it."""

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

    def __exit__(self, *_error: object) -> None:
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
        """Start a process that ends with this one.

        ``log`` takes the output; it is opened here, so that the process needs no right to it. On
        the signal ``tidy_end`` the process ends at once but leaves nothing behind. It runs in the
        sandbox's folder unless ``cwd`` is given. With ``user`` it drops to that id, and out of all
        our groups.
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
        self._instruct_reaper(f"watch {process.pid} {int(tidy_end)}\n")
        return process

    def reap(self, process: subprocess.Popen[bytes], timeout: float) -> int:
        """Wait until a process has ended, SIGKILL it after ``timeout`` s; its exit code."""
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._live.pop(process, None)
        self._instruct_reaper(f"unwatch {process.pid}\n")
        return process.returncode

    def _instruct_reaper(self, line: str) -> None:
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
    """Return at most the last 4,000 bytes of a log, none of them from before byte ``start``."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(start, end - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def failed(what: str, log: Path, start: int = 0) -> DevstackError:
    """Make the error that shows the end of a program's log; its class says if the port was busy."""
    output = tail(log, start).strip()
    kind = PortBusyError if "address already in use" in output.lower() else DevstackError
    return kind(f"{what}; it said:\n{output}")


def free_port() -> int:
    """Pick a TCP port of 127.0.0.1 that nobody listens on, below the ephemeral ports.

    Not ``bind(0)``: while a server is down, any outgoing connection can take its ephemeral port,
    even that of a client that tries to reconnect to the port, and is then connected to itself.
    """
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port


class Server(ABC):
    """A program with a port, which may end and start again.

    The server is authoritative: it is up when it says so, in its log or pid file. ``port`` and data
    stay through every end and start, so that a test can crash it and look what is left. The first
    start takes another port if somebody else took the chosen one; a later start waits until
    somebody's short-lived use of the port is over. ``log_path`` holds what the server wrote.
    """

    tidy_end: signal.Signals
    """On this signal the server ends at once but leaves nothing behind."""

    def __init__(self, name: str, sandbox: Sandbox, log_name: str) -> None:
        """Take the name that errors give it, and where its files are."""
        self.port = 0
        self.log_path = sandbox.folder / log_name
        self._name = name
        self._sandbox = sandbox
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; DevstackError if the server is stopped."""
        if self._process is None:
            raise DevstackError(f"{self._name} is not running")
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it accepts clients; DevstackError with its log if it can't."""
        if self._process is not None:
            raise DevstackError(f"{self._name} is running already")
        again = self.port != 0
        deadline = time.monotonic() + _BUSY_TIMEOUT
        while True:
            self.port = self.port if again else free_port()
            try:
                return self._launch()
            except PortBusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_BUSY_PAUSE)

    @abstractmethod
    def _spawn_server(self) -> subprocess.Popen[bytes]: ...

    @abstractmethod
    def _is_ready(self, pid: int, log_start: int) -> bool: ...

    def _launch(self) -> None:
        log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        process = self._process = self._spawn_server()

        def decided() -> bool:
            return process.poll() is not None or self._is_ready(process.pid, log_start)

        if wait_until(decided, time.monotonic() + _START_TIMEOUT) and process.poll() is None:
            return
        self._end(self.tidy_end)
        raise failed(f"{self._name} did not start on port {self.port}", self.log_path, log_start)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._sandbox.reap(self._process, _STOP_TIMEOUT)
            self._process = None
