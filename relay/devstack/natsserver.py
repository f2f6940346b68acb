"""A throw-away nats-server with JetStream, in its own folder.

The server is right about itself: it is up when it writes "Server is ready", which it does after
JetStream has recovered its store. ``kill`` and ``start`` keep port and store, so that a test can
crash it and look what is left.
"""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relay.devstack.errors import DevstackError
from relay.devstack.port import start_again, start_somewhere
from relay.devstack.programs import find_nats_server
from relay.devstack.sandbox import Sandbox, failed, size, tail, wait_until

_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 10.0


class NatsServer:
    """One server and its JetStream store.

    Attributes:
        port: stays the same through stops and starts.
        log_path: what the server has written so far.
    """

    def __init__(self, program: Path, sandbox: Sandbox, config: str) -> None:
        """Lay out the folder; ``start`` starts it."""
        self._program = program
        self._sandbox = sandbox
        self._config = sandbox.folder / "server.conf"
        self._config.write_text(config, encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.log_path = sandbox.folder / "nats-server.log"

    @property
    def url(self) -> str:
        """Where clients connect, without credentials."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            DevstackError: it is stopped.
        """
        if self._process is None:
            raise DevstackError("nats-server is not running")
        return self._process.pid

    def start(self) -> None:
        """Start it on the same port and store, and wait until it accepts clients.

        Raises:
            DevstackError: it runs already, or could not start; says what it wrote.
        """
        if self._process is not None:
            raise DevstackError("nats-server is running already")
        start_again(self.launch, self.port)

    def stop(self) -> None:
        """End it in order (SIGTERM): its store is written out. Nothing to do if it is stopped."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL: what it had not synced is lost with the machine only."""
        self._end(signal.SIGKILL)

    def launch(self, port: int) -> None:
        """Try once to start it, on this port.

        Raises:
            PortBusyError: somebody else has the port.
            DevstackError: it could not start; says what it wrote.
        """
        self.port = port
        before = size(self.log_path)
        folder = self._sandbox.folder
        # The switches win over the configuration: a `jetstream {}` in it can set limits only.
        command = [str(self._program), "-c", str(self._config), "-a", "127.0.0.1"]
        command += ["-p", str(self.port), "-js", "-sd", str(folder / "store")]
        process = self._sandbox.spawn(command, log=self.log_path, tidy_end=signal.SIGTERM)

        def decided() -> bool:
            return process.poll() is not None or "Server is ready" in tail(self.log_path, before)

        self._process = process
        if wait_until(decided, time.monotonic() + _START_TIMEOUT) and process.poll() is None:
            return
        self.kill()
        raise failed(f"nats-server did not start on port {self.port}", self.log_path, before)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._sandbox.reap(self._process, _STOP_TIMEOUT)
            self._process = None


@contextmanager
def nats_server(config: str = "") -> Iterator[NatsServer]:
    """Run a nats-server with JetStream on 127.0.0.1 for the length of the block.

    Args:
        config: more configuration in nats-server's own syntax, such as users, TLS or limits.

    Raises:
        DevstackError: the program is not there, or does not start.
    """
    program = find_nats_server()
    with Sandbox("nats") as sandbox:
        server = NatsServer(program, sandbox, config)
        start_somewhere(server.launch)
        try:
            yield server
        finally:
            server.stop()
