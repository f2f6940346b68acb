"""``relay run``: deliver until told to stop.

The first SIGTERM, SIGINT or SIGHUP stops cleanly: nothing more is read, what is in flight is
settled, exit 0. The second one lets go at once; what was not settled is published again, under the
same message ids, by the next term. What a stop waits for is the engine's affair:
``shutdown_timeout``.

Beside it are looked after: probes, the status page and the service manager by ``relay.http``, what
OTEL_* ask for by ``relay.otel.export``.
"""

import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Protocol

import anyio

from relay import __version__
from relay.commands.heap import freeze
from relay.errors import sole
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.app import Relay
    from relay.otel.plan import Scrape

log = logging.getLogger("relay.run")


class Stoppable(Protocol):
    """What ``relay.app.Relay`` is to this command."""

    async def run(self) -> None:
        """Return some time after ``stop``."""
        ...

    def stop(self) -> None:
        """Make ``run`` return soon. Calling it again is fine."""
        ...


def run_relay(settings: Settings) -> bool:
    """Run a relay in this process; False if it was let go of before it had stopped cleanly.

    Raises:
        SchemaError, StreamError: a person has to change something first.
    """
    from relay.app import Relay
    from relay.otel.export import exported

    log.info(
        "starting",
        extra={
            "version": __version__,
            "schema": settings.schema_name,
            "nats_url": ",".join(settings.nats_url),
        },
    )
    # A relay is made inside the loop: its adapters may want one.
    options = {"use_uvloop": sys.platform != "win32"}
    with exported(serving=settings.http is not None) as scrape:
        freeze()
        return anyio.run(_main, Relay, settings, scrape, backend_options=options)


async def _main(make: "type[Relay]", settings: Settings, scrape: "Scrape | None") -> bool:
    from relay.http.service import Service

    service = Service(settings, scrape=scrape)
    relay = make(settings, observer=service.record)
    async with service.attend(relay):
        return await until_stopped(relay, service.stopping)


async def until_stopped(relay: Stoppable, stopping: Callable[[], None] = lambda: None) -> bool:
    """Run ``relay`` under the signals; False if a second signal cut it short.

    ``stopping`` is called when the first one has come.
    """
    with anyio.open_signal_receiver(*_stopping_signals()) as signals:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_obey, signals, relay, stopping, tasks.cancel_scope)
                clean = False
                await relay.run()
                clean = True
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise sole(group) from None
    log.info("stopped" if clean else "let go before everything was settled")
    return clean


def _stopping_signals() -> list[signal.Signals]:
    """Return the signals that stop a relay.

    SIGHUP comes when a terminal is closed; files are read anew by a new process. Where ``nohup``
    has it ignored it stays so.
    """
    found = [signal.SIGTERM, signal.SIGINT]
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        found.append(hangup)
    return found


async def _obey(
    signals: AsyncIterator[signal.Signals],
    relay: Stoppable,
    stopping: Callable[[], None],
    scope: anyio.CancelScope,
) -> None:
    told = False
    async for number in signals:
        if told:
            scope.cancel()
            return
        told = True
        log.info("stopping", extra={"signal": number.name})
        stopping()
        relay.stop()
