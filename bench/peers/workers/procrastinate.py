"""procrastinate with one task that publishes, many at a time, woken by LISTEN.

Finished jobs are deleted, failed ones tried again without end. ``Nats-Msg-Id`` is the job's id.
More than 30 at a time make it no faster: it fetches one by one.
"""

# mypy: disable-error-code="import-not-found,untyped-decorator"

import asyncio
import sys
from typing import Any

import nats
from procrastinate import App, JobContext, PsycopgConnector, RetryStrategy
from procrastinate.schema import SchemaManager

CONCURRENCY = 30


async def relay(dsn: str, nats_url: str, stream: str, subject: str) -> None:
    client = await nats.connect(nats_url)
    bus = client.jetstream()
    app = App(connector=PsycopgConnector(conninfo=dsn, min_size=4, max_size=CONCURRENCY))

    @app.task(name="publish", queue="orders", pass_context=True, retry=RetryStrategy(wait=1))
    async def publish(context: JobContext, payload: str) -> None:
        headers = {"Nats-Msg-Id": f"{stream}-{context.job.id}"}
        await bus.publish(subject, payload.encode(), timeout=60, headers=headers)

    worker: Any = app.run_worker_async(
        queues=["orders"], concurrency=CONCURRENCY, delete_jobs="successful"
    )
    async with app.open_async():
        print("ready", flush=True)
        await worker  # until SIGTERM, which it handles itself
    await client.close()


if __name__ == "__main__":
    if sys.argv[1:] == ["schema"]:
        print(SchemaManager.get_schema())
    else:
        asyncio.run(relay(*sys.argv[1:]))
