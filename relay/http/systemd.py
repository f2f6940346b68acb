"""Word to the service manager: READY, STATUS, WATCHDOG, STOPPING, by datagrams to its socket.

A manager that is not there, or whose queue is full, is no reason to fail or to wait: what could
not be sent is dropped. Source: sd_notify(3), whose protocol is all there is to it.
"""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from relay.http.health import Health, Role
from relay.http.summary import summarize

_SETTLED: Final = (Role.LEADER, Role.STANDBY)


class Manager:
    """The service manager of this process, if there is one."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """Find it by ``NOTIFY_SOCKET`` and ``WATCHDOG_USEC``."""
        address = environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the null byte of Linux's abstract sockets.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._ready = False
        self._said = ""
        timeout = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watched = bool(self._address) and ours and timeout.isdecimal()
        self.watchdog_every = int(timeout) / 2e6 if watched else None
        """Seconds between two signs of life; None if nobody waits for them."""

    def report(self, health: Health, *, dead: int = 0) -> None:
        """Give a sign of life, and tell what has changed."""
        lines = [] if self.watchdog_every is None else ["WATCHDOG=1"]
        if not self._ready and health.role in _SETTLED:
            self._ready = True
            lines.append("READY=1")
        headline = summarize(health, dead=dead).headline
        if headline != self._said:
            self._said = headline
            lines.append(f"STATUS={headline}")
        self._send(lines)

    def stopping(self) -> None:
        """Say that the process is about to end."""
        self._send(["STOPPING=1", "STATUS=Stopping"])

    def _send(self, lines: list[str]) -> None:
        if not self._address or not lines:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.setblocking(False)
            to.sendto("\n".join(lines).encode(), self._address)
