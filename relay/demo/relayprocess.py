"""The relay as the demo runs it: ``python -m relay migrate`` and ``run``, as own processes.

Nothing of the relay is imported here. Its log goes to a file of the demo's folder and is shown if
something fails.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from relay.devstack import DevstackError
from relay.devstack.sandbox import Sandbox, failed, tail

STREAM = "DEMO"
SUBJECTS = "orders.>"
STOP_TIMEOUT = 10.0
_MIGRATE_TIMEOUT = 60.0


class RelayProcess:
    """One ``python -m relay run``."""

    def __init__(self, process: subprocess.Popen[bytes], sandbox: Sandbox, log: Path) -> None:
        """Take over a started process."""
        self._process = process
        self._sandbox = sandbox
        self._log = log

    def check(self) -> None:
        """Raise DevstackError with its last log lines if it has ended by itself."""
        code = self._process.poll()
        if code is not None:
            raise failed(f"the relay ended by itself with exit code {code}", self._log)

    def failed(self, what: str) -> DevstackError:
        """Make an error with its last log lines."""
        return failed(what, self._log)

    def last_words(self) -> str:
        """Return the end of its log."""
        return tail(self._log).strip()

    def stop(self) -> None:
        """End it with SIGTERM.

        Raises:
            DevstackError: it had ended before, took longer than 10 s, or did not exit with 0.
        """
        self.check()
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        code = self._sandbox.reap(self._process, STOP_TIMEOUT)
        if code != 0:
            took = time.monotonic() - began
            raise failed(f"the relay exited with {code} {took:.1f} s after SIGTERM", self._log)


@contextmanager
def relay_process(dsn: str, nats_url: str) -> Iterator[RelayProcess]:
    """Migrate, then run a relay for the length of the block.

    Raises:
        DevstackError: the migration failed; says what it wrote.
    """
    environment = _environment(dsn, nats_url)
    with Sandbox("demo") as sandbox:
        log = sandbox.folder / "migrate.log"
        migration = _spawn(sandbox, "migrate", environment, log)
        if sandbox.reap(migration, _MIGRATE_TIMEOUT) != 0:
            raise failed("python -m relay migrate failed", log)
        log = sandbox.folder / "relay.log"
        yield RelayProcess(_spawn(sandbox, "run", environment, log), sandbox, log)


def _spawn(
    sandbox: Sandbox, command: str, environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    return sandbox.spawn(
        [sys.executable, "-m", "relay", command],
        log=log,
        tidy_end=signal.SIGTERM,
        env=environment,
        cwd=Path.cwd(),
    )


def _environment(dsn: str, nats_url: str) -> dict[str, str]:
    # What is set for somebody's real relay must not reach this one.
    kept = {name: value for name, value in os.environ.items() if not _is_ours(name)}
    return {
        **kept,
        "RELAY_POSTGRES_DSN": dsn,
        "RELAY_NATS_URL": nats_url,
        "RELAY_STREAM": STREAM,
        "RELAY_STREAM_SUBJECTS": SUBJECTS,
        "RELAY_STREAM_CREATE": "true",
        "RELAY_RETENTION": "1h",
        "RELAY_LOG_FORMAT": "json",
        "RELAY_HTTP": "off",
    }


def _is_ours(name: str) -> bool:
    return name.startswith(("RELAY_", "PG"))
