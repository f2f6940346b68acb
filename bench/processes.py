"""Child processes that end with their block, whatever they started included.

Each has a session of its own: Ctrl-C in a terminal reaches us alone, and we end them.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from bench.peers.base import READY

START_TIMEOUT = 60.0
END_TIMEOUT = 15.0


class Child:
    """A running process that says lines."""

    def __init__(
        self, process: subprocess.Popen[str], errors: "tempfile._TemporaryFileWrapper[str]"
    ) -> None:
        """Read what ``process`` says in a thread, so that waiting for a line can have an end."""
        self.pid = process.pid
        self._process = process
        self._errors = errors
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def wait_for(self, line: str, timeout: float = START_TIMEOUT) -> float:
        """Wait until it says ``line``; the wall clock then.

        Raises:
            RuntimeError: it ended, or did not say it in time; with what it wrote to its log.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                said = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                said = None
            now = time.time()
            if said is None:
                raise RuntimeError(f"{self._named()} did not say {line!r}: {self._wrote()}")
            if said.strip() == line:
                return now

    def ready(self) -> float:
        """Wait until it is ready; the wall clock then."""
        return self.wait_for(READY)

    def finish(self, timeout: float) -> str:
        """Wait until it ends by itself; the last line that it said.

        Raises:
            RuntimeError: it failed, or did not end in time.
        """
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{self._named()} took more than {timeout} s") from None
        if code != 0:
            raise RuntimeError(f"{self._named()} ended with {code}: {self._wrote()}")
        return self._last_line()

    def stop(self) -> str:
        """Ask it to end with SIGTERM; the last line that it said, empty if it said nothing more."""
        self._terminate()
        return self._last_line()

    def end(self) -> None:
        """Make sure that nothing of it is left."""
        self._terminate()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(END_TIMEOUT)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _terminate(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _last_line(self) -> str:
        last = ""
        while (line := self._lines.get(timeout=END_TIMEOUT)) is not None:
            last = line.strip() or last
        return last

    def _named(self) -> str:
        return (
            " ".join(map(str, self._process.args[:3]))
            if isinstance(self._process.args, list)
            else "?"
        )

    def _wrote(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-2000:].strip() or "it wrote nothing"


@contextmanager
def running(command: Sequence[str], more: Mapping[str, str] | None = None) -> Iterator[Child]:
    """Run ``command`` with ``more`` in its environment for the length of the block, at most."""
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as errors:
        child = None
        try:
            with uninterrupted():  # or nobody would know of a process that has just begun
                process = subprocess.Popen(
                    list(command),
                    env={**os.environ, **(more or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    start_new_session=True,
                )
                child = Child(process, errors)
            yield child
        finally:
            if child is not None:
                child.end()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put Ctrl-C and SIGTERM off until the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.signal(kind, lambda number, _: came.append(number)) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
    if came:
        raise KeyboardInterrupt


def output_of(command: Sequence[str], timeout: float) -> str:
    """Run ``command`` to its end; the last line that it said."""
    with running(command) as child:
        return child.finish(timeout)


def python(module: str, *arguments: object) -> list[str]:
    """Return the command that runs a module in this interpreter."""
    return [sys.executable, "-m", module, *map(str, arguments)]
