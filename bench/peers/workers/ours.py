"""This relay: ``python -m bench.peers.workers.ours DSN NATS_URL STREAM``, as the library runs it.

It is ready when its term begins. uvloop and the frozen heap are what ``relay run`` has.
"""

import signal
import sys

import anyio

from bench.peers.base import READY
from relay import Relay, Settings
from relay.commands.heap import freeze
from relay.facts import Fact, TermBegan


async def run(settings: Settings) -> None:
    relay = Relay(settings, observer=tell)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop_on_signal, relay)
        await relay.run()
        tasks.cancel_scope.cancel()


def tell(fact: Fact) -> None:
    if isinstance(fact, TermBegan):
        print(READY, flush=True)


async def stop_on_signal(relay: Relay) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            relay.stop()


if __name__ == "__main__":
    dsn, nats_url, stream = sys.argv[1:]
    freeze()
    settings = Settings(postgres_dsn=dsn, nats_url=nats_url, stream=stream, retention="1h")
    anyio.run(run, settings, backend_options={"use_uvloop": True})
