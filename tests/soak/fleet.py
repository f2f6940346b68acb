"""The relays of a soak: slots that always hold a running process, unless a fault just ended it.

    running ──ended by a fault, or at a failpoint──► started again at once, plainly
       └─────ended by itself otherwise─────────────► a violation, and started again

Who leads is asked of the cursor row. Slot 0 is the survivor: it is stopped, cut off and unseated
like the others but never ended, so its memory and open files can be watched from first to last.
"""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psycopg

from tests.failpoints import EXIT_CODE
from tests.system.harness import RelayProcess

RELAYS = 3
VANISHING = 2
"""The slot whose host can vanish."""

# Of an event that is refused for some 3 s, 20 tries at most 1 s apart leave one in a million dead.
SETTINGS = {
    "stream_create": "false",
    "nats_user": "relay",
    "nats_password": "relay",
    "retention": "30s",
    "max_attempts": "20",
    "max_retry_delay": "1s",
}
FROZEN_BY_ITSELF = 3.0
"""Seconds that a process stopped at a failpoint stays stopped: long enough for a takeover."""

_BEGINS_WITHIN = 5.0
"""Seconds from a process's start until it surely hears signals."""

_LOOK = 0.1


class Home(NamedTuple):
    """Where a relay finds its servers."""

    dsn: str
    nats_url: str


class Slot:
    """A place for one relay process at a time; ``may_end`` holds the exit codes that are wanted."""

    def __init__(self, number: int, start: Callable[[int, str], RelayProcess]) -> None:
        self.number = number
        self.lock = threading.Lock()
        self.may_end: set[int] = set()
        self.stopped_since: float | None = None
        self._start = start
        self._begun = time.monotonic()
        self.relay = start(number, "")

    @property
    def pid(self) -> int:
        return self.relay.process.pid

    @property
    def survives(self) -> bool:
        return self.number == 0

    def kill(self) -> None:
        self.may_end.add(-signal.SIGKILL)
        self.relay.process.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to stop in order, which ends with exit code 0 once it has begun to work."""
        self.may_end.add(0)
        if time.monotonic() - self._begun < _BEGINS_WITHIN:
            self.may_end.add(-signal.SIGTERM)
        self.relay.process.send_signal(signal.SIGTERM)

    def pause(self) -> None:
        self.relay.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.relay.process.send_signal(signal.SIGCONT)

    def begin(self, failpoints: str = "") -> None:
        """Start the next process."""
        self._begun = time.monotonic()
        self.relay = self._start(self.number, failpoints)
        self.may_end = {-signal.SIGKILL, EXIT_CODE} if failpoints else set()
        self.stopped_since = None


class Fleet:
    """All relays, looked after by a thread until ``close``.

    ``excused`` are exit codes with which any of them may end at present.
    """

    def __init__(self, admin_dsn: str, homes: Sequence[Home], folder: Path) -> None:
        self._admin_dsn = admin_dsn
        self._homes = homes
        self._folder = folder
        self.excused: set[int] = set()
        self.violations: list[str] = []
        self.started = 0
        self.slots = [Slot(number, self._start) for number in range(RELAYS)]
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._look_after)
        self._thread.start()

    def log(self, number: int) -> Path:
        return self._folder / f"relay-{number}.log"

    def leader(self) -> Slot | None:
        """Ask the cursor row; None if nobody of ours leads, or Postgres is away."""
        try:
            with psycopg.connect(self._admin_dsn, connect_timeout=2) as look:
                row = look.execute("select holder from relay.cursor").fetchone()
        except psycopg.OperationalError:
            return None
        pid = int(row[0].split(":")[1]) if row and row[0] else 0
        return next((slot for slot in self.slots if slot.pid == pid), None)

    def heal(self) -> None:
        """Let every process run on."""
        for slot in self.slots:
            with slot.lock, suppress(ProcessLookupError):
                slot.resume()

    def close(self) -> list[int]:
        """Stop all relays in order; their exit codes."""
        self._closing.set()
        self._thread.join()
        for slot in self.slots:
            slot.resume()
            slot.relay.process.send_signal(signal.SIGTERM)
        codes = []
        for slot in self.slots:
            try:
                codes.append(slot.relay.process.wait(15))
            except subprocess.TimeoutExpired:
                slot.relay.kill()
                codes.append(-signal.SIGKILL)
        return codes

    def _start(self, number: int, failpoints: str) -> RelayProcess:
        self.started += 1
        more = {"failpoints": failpoints} if failpoints else {}
        home = self._homes[number]
        return RelayProcess(home.dsn, home.nats_url, self.log(number), **SETTINGS, **more)

    def _look_after(self) -> None:
        while not self._closing.wait(_LOOK):
            for slot in self.slots:
                if slot.lock.acquire(blocking=False):  # a fault is at it
                    try:
                        self._look_at(slot)
                    finally:
                        slot.lock.release()

    def _look_at(self, slot: Slot) -> None:
        code = slot.relay.process.poll()
        if code is not None:
            if code not in slot.may_end | self.excused:
                said = self.log(slot.number).read_text()[-2000:]
                self.violations.append(
                    f"relay {slot.number} (pid {slot.pid}) ended by itself with {code}:\n{said}"
                )
            slot.begin()
        elif is_stopped(slot.pid):  # at a failpoint: no fault holds the slot
            if slot.stopped_since is None:
                slot.stopped_since = time.monotonic()
            elif time.monotonic() - slot.stopped_since > FROZEN_BY_ITSELF:
                slot.stopped_since = None
                slot.resume()


def is_stopped(pid: int) -> bool:
    """Whether the process stands still by a signal (Linux only; else it can't be told)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "T"
