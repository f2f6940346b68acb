"""A NATS cluster that fails over under load, by both publishing paths. R-LOSS, R-ORDER, R-ONCE."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from relay import devstack
from tests.system.cluster import FAILOVERS, WITHIN, nats_cluster, settles_again
from tests.system.harness import Load, Start, until, verdict

pytestmark = [pytest.mark.timeout(280), pytest.mark.slow]

PATHS = {"FAST": True, "WINDOWED": False}
"""By stream: whether it lets in by fast ingest."""


@pytest.fixture
def dsns(one_postgres: devstack.Postgres, one_template: str) -> Iterator[dict[str, str]]:
    """An outbox for each stream."""
    names = {stream: f"cluster_{stream.lower()}" for stream in PATHS}
    yield {
        stream: one_postgres.create_database(name, template=one_template)
        for stream, name in names.items()
    }
    for name in names.values():
        one_postgres.drop_database(name)


def test_no_failover_of_a_cluster_loses_repeats_or_reorders_an_event(
    dsns: dict[str, str], start: Start
) -> None:
    with ExitStack() as stack:
        cluster = stack.enter_context(nats_cluster(4))
        relays, loads = [], dict[str, Load]()
        for stream, dsn in dsns.items():
            name = stream.lower()
            cluster.make(stream, f"{name}.>", allow_batched=PATHS[stream])
            where = {"stream": stream, "stream_subjects": f"{name}.>", "stream_create": "false"}
            relays.append(start(dsn, cluster.urls, **where))
            load = Load(dsn, producers=2, pause=0.01, subject=f"{name}.placed")
            loads[stream] = stack.enter_context(load)

        def flows() -> None:
            for dsn in dsns.values():
                until(settles_again(dsn), WITHIN)

        flows()
        for fail in FAILOVERS.values():
            until(cluster.is_whole, WITHIN)
            fail(cluster, flows)
        for load in loads.values():
            load.stop()
        found = {
            stream: asyncio.run(verdict(load, cluster.url, stream))
            for stream, load in loads.items()
        }
        assert all(each.is_clean for each in found.values()), found
        assert [relay.terminate() for relay in relays] == [0, 0]
