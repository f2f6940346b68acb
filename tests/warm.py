"""Starts ``python -m relay`` as a fork of a process that has imported the relay already.

    test ──command, environment, folder, three streams──► warm process ──fork──fork──► the command
         ◄────────────────── its process id ────────────┘

Nearly all that a start costs are imports, and tests start some 1,500 relays. What is started is a
process like any other: a child of the test's own, with the environment, folder, streams, signals
and exit code it would have had. ``Popen`` and ``run`` start a fresh interpreter wherever the two
could differ, and everywhere with RELAY_TEST_FRESH=1; so do tests of imports, of terminals and of
an interpreter's end, which use ``subprocess``.
"""

import ctypes
import gc
import importlib
import inspect
import json
import os
import runpy
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
IMPORTED: Final = (
    "relay.app",
    "relay.audit.run",
    "relay.cli",
    "relay.cli.watch",
    "relay.doctor",
    "relay.http.routes",
    "relay.jetstream.bus",
    "relay.postgres.bell",
    "relay.postgres.operator",
    "relay.postgres.outbox",
    "relay.postgres.status",
    "rich.markdown",
    "rich.progress",
    "rich.table",
    "uvloop",
)
MODULES: Final = {"relay", "tests.failpoints"}
AT_START: Final = ("LANG", "LC_", "OTEL_", "PSYCOPG_", "PYTHON")
"""The variables that are read once, by the interpreter or by what is imported, begin so."""
USUAL: Final = {name: value for name, value in os.environ.items() if name.startswith(AT_START)} | {
    "PYTHONPATH": str(ROOT)
}
"""Those of the warm process."""
APPLIED_BETWEEN: Final = ("preexec_fn", "pass_fds", "shell", "start_new_session", "user", "group")
REQUEST_BYTES: Final = 1 << 17
_PR_SET_CHILD_SUBREAPER: Final = 36
_EXECUTE: Final = inspect.signature(subprocess.Popen._execute_child)


class Warm:
    """The process that is forked, and this end of the socket to it."""

    def __init__(self) -> None:
        """Start it; it imports while the test goes on."""
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._turn = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], **USUAL},
                pass_fds=[theirs.fileno()],
            )

    def start(
        self, command: Sequence[str], env: Mapping[str, str], cwd: str, streams: Sequence[int]
    ) -> int:
        """Have it fork; the process id of the command, which is a child of this process."""
        text = json.dumps({"command": command, "env": dict(env), "cwd": cwd}).encode()
        with self._turn:
            _adopt_orphans(True)
            try:
                socket.send_fds(self._requests, [text], streams)
                answer = self._requests.recv(20)
            finally:
                _adopt_orphans(False)
        assert answer, "the warm process has ended: RELAY_TEST_FRESH=1 goes without it"
        return int(answer)

    def end(self) -> None:
        self._requests.close()
        self._process.wait(10)


class Popen(subprocess.Popen):
    """``subprocess.Popen`` that forks the warm process where the command allows it."""

    _warm: Warm | None = None
    is_on = False

    def _execute_child(self, *arguments: Any) -> None:
        given = _EXECUTE.bind(self, *arguments).arguments
        env = os.environ if given["env"] is None else given["env"]
        if not self.is_on or not _can_be_forked(given, env):
            return super()._execute_child(*arguments)
        Popen._warm = Popen._warm or Warm()
        pipes = {
            name: given[name]
            for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        }
        ends = (pipes["p2cread"], pipes["c2pwrite"], pipes["errwrite"])
        streams = [own if end == -1 else end for own, end in enumerate(ends)]
        cwd = str(Path(given["cwd"] or ".").resolve())
        self.pid = Popen._warm.start(given["args"][2:], env, cwd, streams)
        self._child_created = True
        self._close_pipe_fds(**pipes)
        return None


def run(
    command: Sequence[str],
    *,
    timeout: float = 60.0,
    **options: Any,
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end; what it wrote, as text."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with Popen(command, **pipes | options) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def turn_on() -> None:
    """Let ``Popen`` fork from now on, where that is possible: on Linux."""
    Popen.is_on = sys.platform == "linux" and not os.environ.get("RELAY_TEST_FRESH")


def turn_off() -> None:
    """End the warm process; what was forked from it lives on."""
    Popen.is_on = False
    if Popen._warm is not None:
        Popen._warm.end()
        Popen._warm = None


def _can_be_forked(given: Mapping[str, Any], env: Mapping[str, str]) -> bool:
    return (
        isinstance(given["args"], list)
        and given["args"][:2] == [sys.executable, "-m"]
        and given["args"][2] in MODULES
        and not any(given.get(option) for option in APPLIED_BETWEEN)
        and all(USUAL.get(name) == env[name] for name in env if name.startswith(AT_START))
    )


def _adopt_orphans(adopt: bool) -> None:
    """Have the kernel give this process the children of what ends below it, or no longer."""
    assert ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0) == 0


def serve(requests: socket.socket) -> str:
    """Fork for each request. Returns in the forks alone: the module that each has to run."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    while True:
        text, streams, _, _ = socket.recv_fds(requests, REQUEST_BYTES, 3)
        if not text:
            sys.exit()
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            if os.fork() == 0:
                requests.detach()
                return _become(json.loads(text), streams, writing)
            os._exit(0)
        for each in (*streams, writing):
            os.close(each)
        os.waitpid(between, 0)  # the test has adopted what is forked, and is told only then
        requests.send(os.read(reading, 20))
        os.close(reading)


def _become(request: Mapping[str, Any], streams: Sequence[int], ready: int) -> str:
    """Take on what was asked for, and say one's process id to ``ready`` only then."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    os.write(ready, str(os.getpid()).encode())
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    module, *sys.argv[1:] = request["command"]
    sys.stdin = sys.__stdin__ = _standard(0, "r", errors="surrogateescape")
    sys.stdout = sys.__stdout__ = _standard(1, "w", errors="surrogateescape")
    sys.stderr = sys.__stderr__ = _standard(2, "w", buffering=1, errors="backslashreplace")
    return module


def _standard(number: int, mode: str, **options: Any) -> Any:
    """Open a standard stream as an interpreter does at its start."""
    return open(number, mode, encoding="utf-8", closefd=False, **options)


if __name__ == "__main__":
    runpy.run_module(
        serve(socket.socket(fileno=int(sys.argv[1]))), run_name="__main__", alter_sys=True
    )
