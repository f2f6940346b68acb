"""The stopwatch around both sides: it changes nothing, and tells once a call."""

from datetime import UTC, datetime, timedelta

import pytest

from relay.core.event import Event
from relay.core.outcome import Held, Refused, Stored, Unknown
from relay.errors import BusOutage, StoreOutage, TermLost
from relay.facts import Asked, Sent
from relay.memory import MemoryBus, MemoryOutbox
from relay.ports import Settlement
from relay.telemetry.observed import WAITS_PER_BATCH, ObservedBus, ObservedOutbox

pytestmark = pytest.mark.anyio


def event(number, subject="orders.placed", age=0.0):
    created_at = datetime.now(UTC) - timedelta(seconds=age)
    return Event(number, str(number), f"m{number}", subject, None, created_at, None, b"x")


class Bus(MemoryBus):
    """A memory bus that knows where it publishes to, and answers as it is told."""

    def __init__(self, answers=None):
        super().__init__()
        self.answers = answers

    def stream_of(self, subject):
        return {"orders": "ORDERS", "users": "USERS"}.get(subject.partition(".")[0])

    async def publish(self, events):
        stored = await super().publish(events)
        return self.answers or stored


async def published(bus, events):
    told = []
    outcomes = await ObservedBus(bus, told.append).publish(events)
    (sent,) = told
    assert isinstance(sent, Sent)
    return sent, outcomes


async def test_a_batch_is_told_once_with_its_stream() -> None:
    events = [event(number) for number in range(40)]
    sent, outcomes = await published(Bus(), events)
    assert (sent.events, sent.counts) == (40, {("ORDERS", ""): 40})
    assert all(isinstance(outcome, Stored) for outcome in outcomes)


async def test_what_came_of_the_events_is_counted_by_stream_and_outcome() -> None:
    events = [event(1), event(2), event(3, "users.new"), event(4, "users.new"), event(5, "other")]
    answers = [Stored(), Refused("no"), Held("stream USERS", "out"), Unknown("?"), Stored()]
    sent, outcomes = await published(Bus(answers), events)
    assert sent.counts == {
        ("ORDERS", ""): 1,
        ("ORDERS", "refused"): 1,
        ("USERS", "held"): 1,
        ("USERS", "unknown"): 1,
        ("", ""): 1,
    }
    assert outcomes is answers


async def test_a_bus_that_names_no_streams_does_as_well() -> None:
    sent, _ = await published(MemoryBus(), [event(1)])
    assert sent.counts == {("", ""): 1}


@pytest.mark.parametrize(("events", "noted"), [(1, 1), (16, 16), (17, 16), (2_000, 16)])
async def test_waits_are_noted_of_all_of_a_small_batch_and_spread_over_a_large_one(
    events: int, noted: int
) -> None:
    sent, _ = await published(Bus(), [event(number, age=float(number)) for number in range(events)])
    assert len(sent.waits) == noted <= WAITS_PER_BATCH
    assert {stream for stream, _ in sent.waits} == {"ORDERS"}
    assert [int(seconds) for _, seconds in sent.waits] == [
        number * events // noted for number in range(noted)
    ]


async def test_only_what_is_stored_has_waited_and_never_less_than_nothing() -> None:
    events = [event(1, age=3.0), event(2, age=-60.0), event(3)]
    sent, _ = await published(Bus([Stored(), Stored(), Refused("no")]), events)
    assert [int(seconds) for _, seconds in sent.waits] == [3, 0]


async def test_an_outage_is_told_and_raised() -> None:
    bus, told = Bus(), []
    bus.away = True
    with pytest.raises(BusOutage):
        await ObservedBus(bus, told.append).publish([event(1), event(2)])
    (sent,) = told
    assert (sent.counts, sent.waits) == ({("ORDERS", "outage"): 2}, ())


async def test_the_store_is_told_by_operation_but_not_what_an_idle_relay_asks() -> None:
    outbox, told = MemoryOutbox(), []
    store = await ObservedOutbox(outbox, told.append).campaign("me")
    assert await ObservedOutbox(outbox, told.append).campaign("another") is None
    assert not (await store.read(10)).events
    assert not told
    outbox.emit("orders.placed", b"x")
    page = await store.read(10)
    await store.settle(Settlement(page.position, 1))
    await store.backlog()
    await store.prune(1.0)
    await store.parked.blocked({"k"})
    await store.parked.due(1)
    assert [fact.operation for fact in told] == [
        "read",
        "settle",
        "backlog",
        "prune",
        "blocked",
        "due",
    ]
    assert all(isinstance(fact, Asked) and not fact.error for fact in told)
    assert store.epoch == outbox.epoch
    await store.close()
    assert outbox.leader is None


async def test_a_failure_of_the_store_is_told_and_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    outbox, told = MemoryOutbox(), []
    store = await ObservedOutbox(outbox, told.append).campaign("me")

    async def away(_):
        raise StoreOutage("away")

    monkeypatch.setattr(outbox.leader, "read", away)
    with pytest.raises(StoreOutage):
        await store.read(1)
    outbox.epoch += 1
    with pytest.raises(TermLost):
        await store.settle(Settlement(None, 0))
    assert [(fact.operation, fact.error) for fact in told] == [
        ("read", "StoreOutage"),
        ("settle", "TermLost"),
    ]
