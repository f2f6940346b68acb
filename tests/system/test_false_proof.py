"""R-LOSS: nothing counts as stored by the word of somebody who did not store it."""

import json
from collections.abc import Iterator

import pytest

from relay import devstack
from relay.devstack.sandbox import free_port
from tests.system import streams
from tests.system.harness import Start, alone, emit, until

pytestmark = pytest.mark.timeout(120)

EVENTS = 20
PUBACKS = [{"seq": 1}, {"seq": 1, "count": 1}, {"stream": "ELSEWHERE", "seq": 7, "count": 1}]
NOISE = [b"[]", b"no JSON", b'{"count": 1}', json.dumps({"stream": "ORDERS", "seq": "1"}).encode()]
LIES = [*[json.dumps(each).encode() for each in PUBACKS], *NOISE]
NAMED = {"stream": "ORDERS", "stream_subjects": "orders.>", "stream_create": "false"}


@pytest.mark.parametrize("batched", [True, False], ids=["fast ingest", "windowed"])
def test_a_service_on_the_subjects_of_a_deleted_stream_delivers_nothing(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start, batched: bool
) -> None:
    url = own_nats.url
    streams.make(url, "ORDERS", "orders.>", allow_batched=batched)
    relay = start(one_dsn, url, **NAMED)
    emit(one_dsn, "orders.first")
    until(lambda: streams.held(url, "ORDERS") == 1, 20)
    with streams.answering(url, "orders.>", *LIES) as asked:
        streams.delete(url, "ORDERS")
        ids = {emit(one_dsn, "orders.placed", f"k{number}") for number in range(EVENTS)}
        until(lambda: bool(asked) and "takes nothing now" in relay.log.read_text(), 20)
        assert alone(one_dsn, UNDELIVERED) == EVENTS
        streams.make(url, "ORDERS", "orders.>", allow_batched=batched)
        until(lambda: streams.held(url, "ORDERS") == EVENTS, 30)
    assert {message.event_id for message in streams.read(url, "ORDERS")} == ids
    assert relay.terminate() == 0


UNDELIVERED = """
select (select count(*) from relay.pending) + (select count(*) from relay.parked)
"""


@pytest.fixture
def leaf_of_a_hub() -> Iterator[tuple[str, str]]:
    """Two servers, a JetStream domain each, which see each other's messages; their addresses."""
    port = free_port()
    at_hub = f'jetstream {{ domain: hub }}\nleafnodes {{ listen: "127.0.0.1:{port}" }}'
    remote = f"nats-leaf://127.0.0.1:{port}"
    at_leaf = f'jetstream {{ domain: leaf }}\nleafnodes {{ remotes: [ {{ url: "{remote}" }} ] }}'
    with devstack.nats_server(at_hub) as hub, devstack.nats_server(at_leaf) as leaf:
        with streams.answering(hub.url, "is.there", b"yes") as asked:

            def connected() -> bool:
                streams.tell(leaf.url, "is.there")
                return bool(asked)

            until(connected, 20)
        yield hub.url, leaf.url


@pytest.mark.parametrize("there", ["ORDERS", "COPIES"])
@pytest.mark.parametrize("batched", [True, False], ids=["fast ingest", "windowed"])
def test_what_another_domain_stores_too_is_not_delivered_by_that(
    one_dsn: str, leaf_of_a_hub: tuple[str, str], start: Start, batched: bool, there: str
) -> None:
    """The leaf's stream is full, the hub's takes everything and answers as well."""
    hub, leaf = leaf_of_a_hub
    streams.make(hub, there, "orders.>", allow_batched=batched)
    streams.make(
        leaf, "ORDERS", "orders.>", allow_batched=batched, max_msgs=EVENTS // 2, discard="new"
    )
    relay = start(one_dsn, leaf, **NAMED)
    for number in range(EVENTS):
        emit(one_dsn, "orders.placed", f"k{number % 7}", number=number)
    until(lambda: "takes nothing now" in relay.log.read_text(), 20)
    assert streams.held(leaf, "ORDERS") == EVENTS // 2
    assert alone(one_dsn, UNDELIVERED) >= EVENTS - EVENTS // 2
    streams.change(leaf, "ORDERS", max_msgs=-1)
    until(lambda: alone(one_dsn, UNDELIVERED) == 0, 20)
    assert len({message.event_id for message in streams.read(leaf, "ORDERS")}) == EVENTS
    warned = [line for line in relay.said() if "of another domain answers" in line["event"]]
    assert [line["stream"] for line in warned] == [there]
    assert relay.terminate() == 0
