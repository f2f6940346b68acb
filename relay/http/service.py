"""Everything that looks after a running relay, put together and kept out of its way.

    service = Service(settings)
    relay = Relay(settings, observer=service.record)
    async with service.attend(relay):
        await relay.run()

The address is taken before the relay begins: one that somebody asked for and that can't be had is
theirs to change (exit 2); the default is not worth a relay that does not deliver, so it is warned
about and tried again, for another relay of this machine may have it and end. Whatever fails later
is logged, and delivery goes on.
"""

import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio

from relay.errors import SettingsError, sole
from relay.facts import Fact
from relay.http.health import Health
from relay.http.heartbeat import BEAT_EVERY, Heartbeat
from relay.http.history import Latency
from relay.http.listening import listen
from relay.http.seen import Seen, Watched
from relay.http.systemd import Manager
from relay.otel.plan import Scrape
from relay.settings import Settings
from relay.settings.addresses import Address

log = logging.getLogger("relay.http")

TRY_AGAIN_EVERY: Final = 5.0


class Service:
    """Probes, page and service manager of one relay. Give ``record`` to it as an observer."""

    def __init__(self, settings: Settings, *, scrape: Scrape | None = None) -> None:
        """Take the address, if there is one to be had.

        Raises:
            SettingsError: the address that was asked for can't be listened on.
        """
        self._settings = settings
        self._scrape = scrape
        self._health = Health()
        self._latency = Latency()
        self._heartbeat = Heartbeat()
        self._manager = Manager()
        self._sockets = self._listen()

    def record(self, fact: Fact) -> None:
        """Take note of a fact."""
        self._health.record(fact)
        self._latency.record(fact)

    def stopping(self) -> None:
        """FactSink everybody that the relay is to stop."""
        self._health.stop()
        self._manager.stopping()

    @asynccontextmanager
    async def attend(self, relay: Watched) -> AsyncIterator[None]:
        """Look after ``relay`` for the length of the block."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_apart, "the heartbeat", self._beat, relay)
                address = self._settings.http
                if address is not None:
                    tasks.start_soon(_apart, "the status page", self._serve, relay, address)
                yield
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise sole(group) from None
        finally:
            for each in self._sockets:
                each.close()

    def _listen(self) -> Sequence[socket.socket]:
        """Take the address; nothing if it is not to be had and nobody asked for it."""
        address = self._settings.http
        if address is None:
            return ()
        try:
            return listen(address)
        except OSError as error:
            why = _reason(error)
            if self._settings.http_is_asked_for:
                remedy = "choose another address, or off"
                raise SettingsError(
                    [f"http = {address} can't be listened on: {why}; {remedy}"]
                ) from error
            log.warning(
                "no status page: its address can't be had; trying again, delivery goes on",
                extra={"address": str(address), "reason": why, "remedy": "set RELAY_HTTP"},
            )
            return ()

    async def _beat(self, relay: Watched) -> None:
        every = min(BEAT_EVERY, self._manager.watchdog_every or BEAT_EVERY)

        def report() -> None:
            self._manager.report(self._health, dead=relay.metrics()["dead"])

        await self._heartbeat.run(report, every)

    async def _serve(self, relay: Watched, address: Address) -> None:
        from relay.http.site import run_site

        sockets = self._sockets or await _by_and_by(address)
        port = sockets[0].getsockname()[1]
        log.info("status page", extra={"url": f"http://{Address(address.host, port)}/"})
        seen = Seen(relay, self._health, self._latency, self._heartbeat)
        await run_site(self._settings, seen, sockets, own_name=address.host, scrape=self._scrape)


def _reason(error: OSError) -> str:
    # The socket module adds the address to strerror; a resolver has words of its own.
    if error.errno is None or isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno)


async def _by_and_by(address: Address) -> Sequence[socket.socket]:
    while True:
        await anyio.sleep(TRY_AGAIN_EVERY)
        try:
            return listen(address)
        except OSError as error:
            log.debug("the status page's address can't be had yet", extra={"reason": str(error)})


async def _apart(what: str, run: Callable[..., Awaitable[None]], *args: object) -> None:
    """Run something that must not take the relay with it."""
    try:
        await run(*args)
    except Exception:
        log.exception("%s failed: delivery goes on without it", what)
