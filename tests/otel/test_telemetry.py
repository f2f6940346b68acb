"""The stopwatch around both sides: it changes nothing, and tells once a call."""

import itertools
import random
import time

import anyio
import pytest

from relay import ports
from relay.core.outcome import Held, Refused, Stored, Unknown
from relay.errors import BusOutage, StoreOutage, TermLost
from relay.facts import Asked, Sent
from relay.otel.instruments import DATABASE_DURATION
from relay.otel.telemetry import (
    MOST_SUBJECTS,
    WAITS_PER_BATCH,
    Pages,
    Sample,
    operations,
    timed_bus,
    timed_outbox,
)
from relay.ports import Backlog, EventBus, OutboxStore, ParkedEvents, Report, Settlement
from tests.otel.doubles import Bus, Outbox, Store, event

pytestmark = pytest.mark.anyio


PERMIT = Store()


async def published(bus, events):
    told = []
    outcomes = await timed_bus(bus, told.append, None, Pages()).publish(events, PERMIT)
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
    answers = [Stored("ORDERS"), Refused("no"), Held("stream USERS", "out"), Unknown("?"), Stored()]
    sent, outcomes = await published(Bus(answers), events)
    assert sent.counts == {
        ("ORDERS", ""): 1,
        ("ORDERS", "refused"): 1,
        ("", "held"): 1,
        ("", "unknown"): 1,
        ("", ""): 1,
    }
    assert outcomes is answers


async def test_what_is_known_without_asking_was_not_sent_and_has_not_waited() -> None:
    events = [event(number, age=float(number)) for number in range(4)]
    known = [Stored("ORDERS", sent=False), Held("stream ORDERS", "full", sent=False)]
    sent, _ = await published(Bus([*known, Stored("ORDERS"), Held("s", "full")]), events)
    assert (sent.events, sent.counts) == (2, {("ORDERS", ""): 1, ("ORDERS", "held"): 1})
    assert [int(seconds) for _, seconds in sent.waits] == [2]
    sent, _ = await published(Bus([known[0], Stored("ORDERS")]), events[:2])
    assert (sent.events, sent.counts) == (1, {("ORDERS", ""): 1})
    told = []
    await timed_bus(Bus(known), told.append, None, Pages()).publish(events[:2], PERMIT)
    assert told == []


async def test_a_bus_that_names_no_streams_does_as_well() -> None:
    sent, _ = await published(Bus([Stored()]), [event(1)])
    assert sent.counts == {("", ""): 1}


async def test_a_subject_keeps_the_stream_that_stored_it_last_and_memory_is_bounded() -> None:
    bus, told = Bus(), []
    observed = timed_bus(bus, told.append, None, Pages())
    await observed.publish([event(1)], PERMIT)
    bus.answers = [Held("stream ORDERS", "full")]
    await observed.publish([event(2)], PERMIT)
    assert told[-1].counts == {("ORDERS", "held"): 1}
    bus.answers = [Stored("MOVED")]
    await observed.publish([event(3)], PERMIT)
    assert told[-1].counts == {("MOVED", ""): 1}
    bus.answers = None
    for batch in range(12):
        subjects = [f"orders.{batch}.{number}" for number in range(1_000)]
        await observed.publish([event(1, subject) for subject in subjects], PERMIT)
        assert told[-1].counts == {("ORDERS", ""): 1_000}
    bus.answers = [Held("stream ORDERS", "full")] * 12_000
    subjects = [f"orders.{batch}.{number}" for batch in range(12) for number in range(1_000)]
    await observed.publish([event(1, subject) for subject in subjects], PERMIT)
    remembered = told[-1].counts[("ORDERS", "held")]
    assert 1_000 <= remembered <= MOST_SUBJECTS
    assert told[-1].counts == {("ORDERS", "held"): remembered, ("", "held"): 12_000 - remembered}


async def test_all_else_of_the_bus_is_handed_on_as_it_is() -> None:
    bus = Bus()
    observed = timed_bus(bus, [].append, None, Pages())
    assert observed.paths == bus.paths
    assert (observed.server, observed.duplicate_window) == (bus.server, bus.duplicate_window)
    assert observed.sole_hold == bus.sole_hold
    assert observed.learnt() == bus.learnt()
    assert await observed.storage() == await bus.storage()
    await observed.publish([], PERMIT, closed=["stream A"])
    await observed.connect()
    observed.recall({"A": ["a"]})
    await observed.close()
    assert bus.asked == [(PERMIT, ["stream A"]), "connect", {"A": ["a"]}, "close"]


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


async def test_the_phases_of_a_batch_are_those_of_its_first_event_that_was_stored() -> None:
    pages, told = Pages(), []
    events = [event(1, age=9.0), event(2, age=3.0), event(3)]
    store = await timed_outbox(Outbox(Store(events)), told.append, pages).campaign("me")
    began = time.perf_counter()
    await store.read(10)
    await anyio.sleep(0.02)
    bus = Bus([Refused("no"), Stored(), Stored()])
    await timed_bus(bus, told.append, None, pages).publish(events, PERMIT)
    lasted = time.perf_counter() - began
    phases = told[-1].phases
    assert list(phases) == ["seen", "sent", "acknowledged"]
    assert sum(phases.values()) == pytest.approx(told[-1].waits[0][1])
    assert 0.02 <= phases["sent"] <= phases["sent"] + phases["acknowledged"] <= lasted
    assert 3 <= phases["seen"] < 9


async def test_only_the_newest_two_pages_are_remembered_and_what_is_parked_has_no_phases() -> None:
    pages, told = Pages(), []
    inner = Store()
    store = await timed_outbox(Outbox(inner), told.append, pages).campaign("me")
    bus = timed_bus(Bus(), told.append, None, pages)
    for first in (10, 20, 30):
        inner.events = [event(first), event(first + 5)]
        await store.read(10)
    inner.events = []
    await store.read(10)
    seen = {}
    for number in (3, 12, 22, 35):
        await bus.publish([event(number, age=-60.0)], PERMIT)
        seen[number] = told[-1].phases.get("seen")
    assert seen == {3: None, 12: None, 22: 0.0, 35: 0.0}


async def test_an_outage_is_told_and_raised() -> None:
    bus, told = Bus(), []
    bus.away = True
    with pytest.raises(BusOutage):
        await timed_bus(bus, told.append, None, Pages()).publish([event(1), event(2)], PERMIT)
    (sent,) = told
    assert (sent.counts, sent.waits) == ({("", "outage"): 2}, ())


async def test_the_store_is_told_by_operation_but_not_what_an_idle_relay_asks() -> None:
    inner, told = Store(), []
    outbox = Outbox(inner)
    store = await timed_outbox(outbox, told.append, Pages()).campaign("me")
    assert await timed_outbox(Outbox(), told.append, Pages()).campaign("another") is None
    assert not (await store.read(10)).events
    assert store.granted()
    assert not told
    inner.events = [event(1)]
    await store.read(10)
    await store.settle(Settlement(None))
    assert await store.look(None) == Backlog(1, 2.0, 3)
    assert await store.tend(1.0) == 4
    await store.report(Report("closed", "closed", 1, 2, {}))
    await store.renew()
    assert await store.streams() == {"A": {"a.>"}}
    await store.keep_streams({})
    assert await store.parked.blocked({"k"}) == set()
    assert await store.parked.due(1, without=["stream A"]) == ["stream A"]
    operations = "read settle look tend report renew streams keep_streams blocked due"
    assert [fact.operation for fact in told] == operations.split()
    assert all(isinstance(fact, Asked) and not fact.error for fact in told)
    assert store.epoch == inner.epoch
    await store.close()
    assert inner.closed
    assert await timed_outbox(outbox, told.append, Pages()).storage() == "as it is"


async def test_a_failure_of_the_store_is_told_and_raised() -> None:
    inner, told = Store(), []
    store = await timed_outbox(Outbox(inner), told.append, Pages()).campaign("me")
    inner.error = StoreOutage("away")
    with pytest.raises(StoreOutage):
        await store.read(1)
    inner.error = TermLost("over")
    with pytest.raises(TermLost):
        await store.settle(Settlement(None))
    with pytest.raises(TermLost):
        await store.renew()
    assert [(fact.operation, fact.error) for fact in told] == [
        ("read", "StoreOutage"),
        ("settle", "TermLost"),
        ("renew", "TermLost"),
    ]


@pytest.mark.parametrize("port", [EventBus, OutboxStore, ports.Outbox])
async def test_everything_that_a_port_has_is_there(port) -> None:
    made = {
        EventBus: timed_bus(Bus(), [].append, None, Pages()),
        ports.Outbox: timed_outbox(Outbox(), [].append, Pages()),
        OutboxStore: await timed_outbox(Outbox(Store()), [].append, Pages()).campaign("me"),
    }[port]
    members = {name for each in port.__mro__ for name in vars(each) if not name.startswith("_")}
    assert {name for name in members if not hasattr(made, name)} == set()


def test_the_metric_names_every_operation_that_is_timed() -> None:
    named = DATABASE_DURATION.help.partition(": ")[2].partition(".")[0].split(", ")
    assert set(named) == operations(OutboxStore) | operations(ParkedEvents)


@pytest.mark.parametrize(("rate", "chosen"), [(1, 1.0), (50, 1.0), (200, 0.25), (5_000, 0.01)])
def test_of_many_batches_some_are_chosen_by_chance(rate: int, chosen: float) -> None:
    chance, clock = random.Random(1), itertools.count()
    sample = Sample(chance=chance.random, now=lambda: next(clock) / rate)
    for _ in range(2 * rate):  # the rate is not known before
        sample.takes()
    taken = [sample.takes() for _ in range(10_000)]
    assert sum(taken) / 10_000 == pytest.approx(chosen, rel=0.2)


def test_after_a_rest_every_batch_is_chosen() -> None:
    clock = 0.0
    sample = Sample(chance=lambda: 1.0, now=lambda: clock)
    for number in range(3_000):
        clock = number / 1_000
        taken = sample.takes()
    assert not taken
    clock += 60.0
    assert sample.takes()


async def test_a_batch_that_is_not_chosen_is_counted_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Sample, "takes", lambda _: False)
    sent, _ = await published(Bus(), [event(1), event(2)])
    assert (sent.events, sent.counts) == (2, {("ORDERS", ""): 2})
    assert not sent.waits
    assert not sent.phases
