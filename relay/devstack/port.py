"""TCP ports of 127.0.0.1 for servers, and what to do when somebody else was quicker."""

import random
import socket
import time
from collections.abc import Callable

from relay.devstack.errors import PortBusyError

_FIRST, _LAST = 20_000, 29_999
_TRIES = 5
_SAME_PORT_TIMEOUT = 10.0
_PAUSE = 0.1


def free_port() -> int:
    """Pick a TCP port of 127.0.0.1 that nobody listens on, below the ephemeral ports.

    Not ``bind(0)``: an ephemeral port can be taken by anybody's outgoing connection while its
    server is down, even by a client that tries to reconnect to that very port and so is connected
    to itself. Somebody may still be quicker than the caller: ``start_somewhere`` then retries.
    """
    while True:
        port = random.randint(_FIRST, _LAST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def start_somewhere(launch: Callable[[int], None]) -> None:
    """Launch a server for the first time, on another port if somebody took the chosen one."""
    for _ in range(_TRIES):
        try:
            return launch(free_port())
        except PortBusyError as error:
            busy = error
    raise busy


def start_again(launch: Callable[[int], None], port: int) -> None:
    """Launch a server on the port that it had; somebody's short-lived use of it is waited out."""
    deadline = time.monotonic() + _SAME_PORT_TIMEOUT
    while True:
        try:
            return launch(port)
        except PortBusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
