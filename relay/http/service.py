"""What ``run`` starts beside a relay: probes, the page, and word to the service manager.

    service = Service(settings)
    relay = Relay(settings, observer=service.record)
    async with service.attend(relay):
        await relay.run()

The address is taken before the relay begins. An address from the settings that can't be had is for
a person to change (exit 2). The default address is not worth a relay that does not deliver: that is
warned about and tried again, for another relay of this machine may have it, and end. What fails
later is logged, and delivery goes on.
"""

import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio

from relay.app import Relay
from relay.errors import SettingsError, sole
from relay.facts import Fact
from relay.http.health import Health, Latency
from relay.http.summary import summarize
from relay.otel.export import Scrape
from relay.settings import Settings
from relay.settings.kinds import Address
from relay.state import Role

log = logging.getLogger("relay.http")

BEAT_EVERY: Final = 0.5
TRY_AGAIN_EVERY: Final = 5.0
_BACKLOG: Final = 64
_NOT_OURS: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_UNTAKEN_MS: Final = 20_000
"""The kernel ends a connection whose other side takes nothing for so long."""


class Service:
    """Probes, page and service manager of one relay. Give ``record`` to the relay as observer."""

    def __init__(self, settings: Settings, *, scrape: Scrape | None = None) -> None:
        """Take the address, if it can be had.

        Raises:
            SettingsError: the address of the settings can't be listened on.
        """
        self._settings = settings
        self._scrape = scrape
        self._latency = Latency()
        self._manager = Manager()
        self._sockets = self._listen()

    def record(self, fact: Fact) -> None:
        """Take note of a fact."""
        self._latency.record(fact)

    def stopping(self) -> None:
        """Tell the service manager that the relay is to stop."""
        self._manager.stopping()

    @asynccontextmanager
    async def attend(self, relay: Relay) -> AsyncIterator[None]:
        """Look after ``relay`` for the length of the block."""
        health, address = Health(relay.state), self._settings.http
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_apart, "the heartbeat", self._beat, health)
                if address is not None:
                    tasks.start_soon(_apart, "the status page", self._serve, relay, health, address)
                yield
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise sole(group) from None
        finally:
            for each in self._sockets:
                each.close()

    def _listen(self) -> Sequence[socket.socket]:
        address = self._settings.http
        if address is None:
            return ()
        try:
            return listen(address)
        except OSError as error:
            reason = _reason(error)
            if self._settings.http_is_asked_for:
                remedy = "choose another address, or off"
                raise SettingsError(
                    [f"http = {address} can't be listened on: {reason}; {remedy}"]
                ) from error
            log.warning(
                "no status page: its address can't be had; trying again, delivery goes on",
                extra={"address": str(address), "reason": reason, "remedy": "set RELAY_HTTP"},
            )
            return ()

    async def _beat(self, health: Health) -> None:
        while True:
            health.turn()
            self._manager.report(health)
            await anyio.sleep(min(BEAT_EVERY, self._manager.watchdog_every or BEAT_EVERY))

    async def _serve(self, relay: Relay, health: Health, address: Address) -> None:
        from relay.http import routes

        while not self._sockets:
            await anyio.sleep(TRY_AGAIN_EVERY)
            try:
                self._sockets = listen(address)
            except OSError as error:
                reason = {"reason": str(error)}
                log.debug("the status page's address can't be had yet", extra=reason)
        port = self._sockets[0].getsockname()[1]
        log.info("status page", extra={"url": f"http://{Address(address.host, port)}/"})
        await routes.serve_page(
            self._settings,
            relay,
            health,
            self._latency,
            self._sockets,
            own_name=address.host,
            scrape=self._scrape,
        )


class Manager:
    """The service manager of this process, if there is one. Source: sd_notify(3).

    READY, STATUS, WATCHDOG and STOPPING go to its socket as datagrams. A manager that is away, or
    whose queue is full, is no reason to fail or to wait: what can't be sent is dropped.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """Find the manager by ``NOTIFY_SOCKET`` and ``WATCHDOG_USEC``."""
        address = environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the null byte of Linux's abstract sockets.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._is_ready = False
        self._headline = ""
        timeout = environ.get("WATCHDOG_USEC", "")
        is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        is_watched = bool(self._address) and is_ours and timeout.isdecimal()
        self.watchdog_every = int(timeout) / 2e6 if is_watched else None
        """Seconds between two signs of life; None if the manager does not wait for them."""

    def report(self, health: Health) -> None:
        """Give a sign of life, and report what has changed."""
        lines = [] if self.watchdog_every is None else ["WATCHDOG=1"]
        if not self._is_ready and health.state.role in {Role.LEADER, Role.STANDBY}:
            self._is_ready = True
            lines.append("READY=1")
        headline = summarize(health, dead=health.state.backlog.dead).headline
        if headline != self._headline:
            self._headline = headline
            lines.append(f"STATUS={headline}")
        self._send(lines)

    def stopping(self) -> None:
        """Report that the process is about to end."""
        self._send(["STOPPING=1", "STATUS=Stopping"])

    def _send(self, lines: Sequence[str]) -> None:
        if not self._address or not lines:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.setblocking(False)
            to.sendto("\n".join(lines).encode(), self._address)


def listen(address: Address) -> list[socket.socket]:
    """Bind every address of a name; port 0 becomes the same free port for all of them.

    Raises:
        OSError: an address is taken or forbidden, or none of them is this machine's.
    """
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    not_ours: OSError | None = None
    port = address.port
    for family, host in dict.fromkeys((each[0], str(each[4][0])) for each in found):
        try:
            sockets.append(_bind(family, host, port))
        except OSError as error:
            # A name may have an IPv6 address on a machine without IPv6.
            if error.errno not in _NOT_OURS:
                for each in sockets:
                    each.close()
                raise
            not_ours = error
        else:
            port = sockets[0].getsockname()[1]
    if not_ours is not None and not sockets:
        raise not_ours
    return sockets


def _bind(family: int, host: str, port: int) -> socket.socket:
    dual = host == "::" and socket.has_dualstack_ipv6()
    bound = socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
    bound.setblocking(False)
    # Connections inherit both options, so that a peer that vanished is not kept for ever.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    with suppress(AttributeError, OSError):
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNTAKEN_MS)
    return bound


def _reason(error: OSError) -> str:
    # The socket module adds the address to strerror; a resolver has words of its own.
    if error.errno is None or isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno)


async def _apart(name: str, run: Callable[..., Awaitable[None]], *args: object) -> None:
    """Run something that must not take the relay with it."""
    try:
        await run(*args)
    except Exception:
        log.exception("%s failed: delivery goes on without it", name)
