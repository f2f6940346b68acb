"""``relay run``: deliver until told to stop.

The first SIGTERM or SIGINT stops cleanly: nothing more is read, what is in flight is settled, exit
0. The second one lets go at once; what was not settled is published again, under the same message
ids, by the next term. What a stop waits for is the engine's affair: ``shutdown_timeout``.
"""

import logging
import signal
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol

import anyio

from relay import __version__
from relay.errors import sole
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.app import Relay

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

    log.info(
        "starting",
        extra={
            "version": __version__,
            "schema": settings.schema_name,
            "nats_url": ",".join(settings.nats_url),
        },
    )
    # A relay is made inside the loop: its adapters may want one.
    return anyio.run(
        _main, Relay, settings, backend_options={"use_uvloop": sys.platform != "win32"}
    )


async def _main(relay: "type[Relay]", settings: Settings) -> bool:
    return await until_stopped(relay(settings))


async def until_stopped(relay: Stoppable) -> bool:
    """Run ``relay`` under the signals; False if a second signal cut it short."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_obey, signals, relay, tasks.cancel_scope)
                clean = False
                await relay.run()
                clean = True
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise sole(group) from None
    log.info("stopped" if clean else "let go before everything was settled")
    return clean


async def _obey(
    signals: AsyncIterator[signal.Signals], relay: Stoppable, scope: anyio.CancelScope
) -> None:
    stopping = False
    async for number in signals:
        if stopping:
            scope.cancel()
            return
        stopping = True
        log.info("stopping", extra={"signal": number.name})
        relay.stop()
