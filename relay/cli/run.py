"""``relay run``: deliver until told to stop.

The first SIGTERM, SIGINT or SIGHUP stops cleanly: nothing more is read, what is in flight is
settled, exit 0; ``shutdown_timeout`` bounds the wait. The second one lets go at once: what was not
settled is published again by the next term, under the same message ids.

Probes, the status page and the service manager are served by ``relay.http``, the exports that
OTEL_* ask for by ``relay.otel.export``.
"""

import faulthandler
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import anyio
import typer

from relay import __version__
from relay.cli.options import INTERRUPTED, with_settings
from relay.errors import sole
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.app import Relay
    from relay.otel.export import Scrape

log = logging.getLogger("relay.run")


@with_settings(is_service=True)
def run(settings: Settings) -> None:
    """Deliver events until SIGTERM or Ctrl-C; a second relay on the same outbox stands by."""
    from relay.otel.export import exported

    faulthandler.enable(2)  # what ends the process below Python leaves its stack on standard error
    log.info(
        "starting",
        extra={
            "version": __version__,
            "schema": settings.schema_name,
            "nats_url": ",".join(settings.nats_url),
        },
    )
    options = {"use_uvloop": sys.platform != "win32"}
    with exported(serving=settings.http is not None) as scrape:
        freeze()
        if not anyio.run(_main, settings, scrape, backend_options=options):
            raise typer.Exit(INTERRUPTED)


def freeze() -> None:
    """Load what a relay needs, and keep all that lives now from the garbage collector.

    For a process that is a relay and nothing else. A full collection walks every object, and pages
    of thousands of events make one come often: while 200,000 events are drained, 40 ms each with
    all modules in sight, 7 ms without, of 2 s of processor time in all.
    """
    import relay.jetstream.bus
    import relay.postgres.bell
    import relay.postgres.outbox  # noqa: F401 - loaded before, not after
    from relay.postgres.sqlfiles import read_all

    read_all()
    gc.collect()
    gc.freeze()


async def _main(settings: Settings, scrape: "Scrape | None") -> bool:
    from relay.app import Relay
    from relay.http.service import Service

    service = Service(settings, scrape=scrape)
    relay = Relay(settings, observer=service.record)
    async with service.attend(relay):
        return await until_stopped(relay, service.stopping)


async def until_stopped(relay: "Relay", stopping: Callable[[], None] = lambda: None) -> bool:
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
    relay: "Relay",
    stopping: Callable[[], None],
    scope: anyio.CancelScope,
) -> None:
    first = await anext(signals)
    log.info("stopping", extra={"signal": first.name})
    stopping()
    relay.stop()
    await anext(signals)
    scope.cancel()
