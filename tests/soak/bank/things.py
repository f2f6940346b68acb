"""What both ends consist of, to be killed and frozen; and pgbench."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from relay import devstack


class Thing:
    """Something that is killed, started and frozen."""

    def __init__(self, name: str, start: Callable[[], Callable[[], list[int]]]) -> None:
        """``start`` starts it anew and returns what says its process ids."""
        self.name = name
        self._start = start
        self._pids = start()
        self._lock = threading.Lock()

    def kill(self, rest: float) -> bool:
        with self._lock:
            self._kill()
            time.sleep(rest)
            self._pids = self._start()
        return True

    def freeze(self, seconds: float) -> bool:
        with self._lock:
            pids = self._pids()
            for pid in pids:
                _signal(pid, signal.SIGSTOP)
            time.sleep(seconds)
            for pid in reversed(pids):
                _signal(pid, signal.SIGCONT)
        return bool(pids)

    def _kill(self) -> None:
        raise NotImplementedError


class Program(Thing):
    """A relay or a consumer."""

    def __init__(self, name: str, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self.process: subprocess.Popen[bytes]
        self.died = list[int]()

        def begin() -> Callable[[], list[int]]:
            self.process = start()
            return lambda: [self.process.pid] if self.process.poll() is None else []

        super().__init__(name, begin)

    def _kill(self) -> None:
        if (code := self.process.poll()) is not None:
            self.died.append(code)  # by itself: a violation
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        _signal(self.process.pid, signal.SIGCONT)
        self._kill()


class Server(Thing):
    """A database or NATS."""

    def __init__(self, name: str, server: devstack.Postgres | devstack.NatsServer) -> None:
        self._server = server
        self._running = True

        def begin() -> Callable[[], list[int]]:
            if not self._running:
                server.start()
            return lambda: [server.pid, *_children(server.pid)]

        super().__init__(name, begin)

    def _kill(self) -> None:
        self._server.kill()
        self._running = False


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        return [int(each) for each in text.split()]
    return []


class Load:
    """pgbench again and again, for each run ends with the server."""

    def __init__(self, program: Path, dsn: str, rate: int, log: Path) -> None:
        self._command = [
            *(str(program), "--no-vacuum", "--client", "16", "--jobs", "2"),
            *("--rate", str(rate), "--time", "3600", dsn),
        ]
        self._log = log
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        while self._thread.is_alive():
            if self._process is not None:
                self._process.kill()
            self._thread.join(0.1)

    def _run(self) -> None:
        while not self._stopping.wait(0.1):
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
            self._process.wait()
