"""A real run that shows everything the dashboard can show: real servers, relays, faults, scrapes.

    two relays, one leads, one stands by         producers all the while
    events whose id another message has: dead    fast ingest is switched off: answers decide nothing
    events that the stream holds already, and    NATS is away for a moment
    those of which the message is gone           a session of the leader's is ended: a new term

Prometheus scrapes once a second, by the shipped configuration and rules, but for the targets and
for the alerts' waiting times. What has to be seen, it is asked for; nothing is slept for.
"""

import asyncio
import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import nats
import psycopg
import yaml

from relay import dashboards, devstack
from relay.devstack.sandbox import free_port
from relay.postgres import migrations
from tests.dashboards.tools import Prometheus, prometheus, tool
from tests.system.harness import STREAM, Load, RelayProcess, until

SETTINGS = {
    "max_attempts": "1",
    "circuit_breaker_lag": "200ms",
    "max_retry_delay": "500ms",
}
END_A_WAITING_READ = """
select pg_terminate_backend(pid)
  from pg_stat_activity
 where application_name = 'relay reader' and wait_event_type = 'Lock'
"""


def rate(series: str, matcher: str = "") -> str:
    return f"sum(rate({series}{{{matcher}}}[4s]))"


FAILED = 'error_type!=""'
STORED = rate("messaging_client_sent_messages_total", 'error_type=""')


@dataclass(frozen=True)
class Run:
    """What Prometheus saw, from `began` to `ended`; it can still be asked."""

    prometheus: Prometheus
    began: float
    ended: float


@contextmanager
def run(folder: Path) -> Iterator[Run]:
    """Run it all, and leave Prometheus running for the block."""
    tool("prometheus")  # skips before anything is started
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        server = stack.enter_context(prometheus(configure(folder, ports)))
        postgres = stack.enter_context(devstack.postgres(settings={"fsync": "off"}))
        bus = stack.enter_context(devstack.nats_server())
        dsn = postgres.create_database("outbox")
        asyncio.run(migrations.migrate(dsn, "relay"))
        for port in ports:
            log, http = folder / f"relay-{port}.log", f"127.0.0.1:{port}"
            stack.enter_context(RelayProcess(dsn, bus.url, log, http=http, **SETTINGS))
            until(lambda: epoch(dsn) == 1, 20)
        with Load(dsn):
            server.wait("count(relay_leader)", 2)
            began = time.time()
            provoke(server, dsn, bus)
            ended = time.time()
        yield Run(server, began, ended)


def epoch(dsn: str) -> int:
    with psycopg.connect(dsn) as look:
        row = look.execute("select epoch from relay.cursor").fetchone()
    assert row is not None
    return row[0]


def provoke(server: Prometheus, dsn: str, bus: devstack.NatsServer) -> None:
    """Let everything go wrong, one thing after another, and wait until it was seen."""
    server.wait(STORED)
    numbers = itertools.count()

    def publish(kind: str) -> Callable[[], None]:
        return lambda: asyncio.run(publish_twice(dsn, bus.url, f"{kind}-{next(numbers)}", kind))

    again_and_again(server, publish("another's"), rate("relay_collisions_total"))
    server.wait("max(relay_dead)")

    asyncio.run(allow_batches(bus.url, on=False))
    again_and_again(server, publish("ours"), rate("relay_duplicates_total"))
    again_and_again(server, publish("gone"), rate("relay_duplicates_unverified_total"))
    asyncio.run(allow_batches(bus.url, on=True))

    again_and_again(server, lambda: cut_off(bus), rate("relay_retries_total"))
    bus.kill()
    server.wait('max(relay_outage{relay_side="nats"})', 1)
    server.wait('max(relay_breaker_state{relay_breaker="lag"})')
    bus.start()
    server.wait('max(relay_outage{relay_side="nats"})', 0)

    end_a_session_at_work(dsn)
    server.wait("max(relay_epoch)", 2)
    server.wait(f"count({rate('db_client_operation_duration_seconds_count', FAILED)})")
    server.wait(STORED)
    server.wait("max(relay_outbox_size_bytes)")
    server.wait('count(ALERTS{alertname="RelayDeadLetters", alertstate="firing"})')
    for _ in range(2):  # Grafana asks once a second: what was seen last, it may not have seen yet
        next_scrape(server)


def end_a_session_at_work(dsn: str) -> None:
    """End the leader's reader while a statement of it waits: that one is sure to fail."""
    with psycopg.connect(dsn) as lock, psycopg.connect(dsn, autocommit=True) as other:
        lock.execute("lock table relay.outbox")
        until(lambda: other.execute(END_A_WAITING_READ).fetchone() == (True,), 20)


def cut_off(bus: devstack.NatsServer) -> None:
    """End every connection to the broker, whatever is under way on it."""
    bus.kill()
    bus.start()


def again_and_again(server: Prometheus, act: Callable[[], None], expr: str) -> None:
    """Act once a scrape until `expr` is above 0: a rate does not see how a counter begins."""
    deadline = time.monotonic() + 30
    while (server.value(expr) or 0) <= 0:
        assert time.monotonic() < deadline, f"{expr} is still 0"
        act()
        next_scrape(server)


def next_scrape(server: Prometheus) -> None:
    scraped_at = "max(timestamp(relay_leader))"
    server.wait(f"{scraped_at} > {server.value(scraped_at) or 0}")


async def allow_batches(nats_url: str, *, on: bool) -> None:
    """Switch fast ingest on or off, as an operator does."""
    client = await nats.connect(nats_url)
    told = await client.request(f"$JS.API.STREAM.INFO.{STREAM}")
    changed = json.loads(told.data)["config"] | {"allow_batched": on}
    said = await client.request(f"$JS.API.STREAM.UPDATE.{STREAM}", json.dumps(changed).encode())
    assert "error" not in json.loads(said.data)
    await client.close()


async def publish_twice(dsn: str, nats_url: str, id_: str, kind: str) -> None:
    """Put a message into the stream, and then an event with its id into the outbox.

    The message is the event's own, another's, or it is gone by then.
    """
    client, event_id = await nats.connect(nats_url), str(uuid.uuid4())
    headers = {"Nats-Msg-Id": id_, "Relay-Event-Id": event_id if kind == "ours" else "another"}
    stored = await client.jetstream().publish("orders.paid", b"1", headers=headers)
    if kind == "gone":
        await client.jetstream().delete_msg(STREAM, stored.seq)
    await client.close()
    async with await psycopg.AsyncConnection.connect(dsn) as producer:
        await producer.execute(
            "insert into relay.outbox (event_id, subject, payload, idempotency_key)"
            " values (%s, 'orders.paid', '1', %s)",
            [event_id, id_],
        )


def configure(folder: Path, ports: list[int]) -> Path:
    """Write the shipped configuration, once a second, for these relays, with impatient alerts."""
    files = {name: yaml.safe_load(text) for name, text in dashboards.shipped().items()}
    scraping, rules = files[dashboards.SCRAPING], files[dashboards.ALERTS]
    scraping["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    relays = scraping["scrape_configs"][0]
    relays["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
    scraping["scrape_configs"] = [relays]
    for rule in rules["groups"][0]["rules"]:
        rule["for"] = "0s"
    (folder / dashboards.ALERTS).write_text(yaml.safe_dump(rules))
    config = folder / dashboards.SCRAPING
    config.write_text(yaml.safe_dump(scraping))
    return config
