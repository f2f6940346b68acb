"""What every outbox adapter keeps of its parked events, written once and run against each."""

from collections.abc import Sequence
from typing import Any, Protocol

import pytest

from relay.core import disposition
from relay.core.disposition import Parking
from relay.core.event import Event
from relay.core.outcome import Held
from relay.errors import TermLost
from relay.ports import Due, OutboxStore, Settlement
from tests.contract.outbox_contract import Harness, dead, lead, read_all, retried

pytestmark = pytest.mark.anyio


class ParkedHarness(Harness, Protocol):
    """An outbox of which a person can decide on the parked."""

    async def retry(self, event: Event) -> None:
        """Have a dead event tried again."""
        ...

    async def replay(self, *events: Event) -> None:
        """Have delivered events published again."""
        ...

    async def dead_events_block(self) -> None:
        """Go on with an outbox, over the same events, whose dead block their keys."""
        ...


async def committed(harness: ParkedHarness, *subjects: str, key: str | None = "k") -> list[Event]:
    """Commit and read events; park nothing yet, settle nothing."""
    await harness.commit(*subjects, key=key)
    store = await lead(harness)
    (page,) = await read_all(store)
    return list(page.events)


async def park(store: OutboxStore, *parkings: Parking, unparked: Sequence[Event] = ()) -> None:
    gone = [event.event_id for event in unparked]
    await store.settle(Settlement(None, parkings, gone))


def subjects(due: Sequence[Due]) -> list[str]:
    return [each.event.subject for each in due]


class ParkedContract:
    """Subclass it with a fixture ``harness``. R-ORDER, R-FATE."""

    @pytest.fixture
    async def events(self, harness: ParkedHarness) -> list[Event]:
        return await committed(harness, "a.1", "a.2", "a.3")

    @pytest.fixture
    def store(self, harness: ParkedHarness, events: list[Event]) -> OutboxStore:
        assert events
        return harness.terms[-1]

    async def test_nothing_parked_blocks_nothing_and_nothing_is_due(
        self, store: OutboxStore
    ) -> None:
        assert await store.parked.blocked({"k", "other"}) == set()
        assert list(await store.parked.due(10)) == []
        assert (await store.look(None)).blocking is False

    async def test_an_event_is_due_after_its_delay_and_not_before(
        self, store: OutboxStore, events: list[Event]
    ) -> None:
        await park(store, retried(events[0], delay=20))
        assert list(await store.parked.due(10)) == []
        assert (await store.look(None)).blocking is True
        await park(store, retried(events[0], attempts=2, delay=0))
        (due,) = await store.parked.due(10)
        assert (due.event, due.attempts, due.held_by) == (events[0], 2, "")

    async def test_a_parked_event_blocks_its_key_alone(
        self, store: OutboxStore, events: list[Event]
    ) -> None:
        await park(store, retried(events[0]))
        assert await store.parked.blocked({"k", "other"}) == {"k"}

    async def test_those_behind_are_due_with_the_first_and_in_order(
        self, store: OutboxStore, events: list[Event]
    ) -> None:
        await park(store, disposition.behind(events[2]), retried(events[0]))
        await park(store, disposition.behind(events[1]))
        assert subjects(await store.parked.due(10)) == ["a.1", "a.2", "a.3"]
        assert subjects(await store.parked.due(2)) == ["a.1", "a.2"]

    async def test_nothing_is_due_behind_an_event_that_is_not(
        self, store: OutboxStore, events: list[Event]
    ) -> None:
        behind = [disposition.behind(each) for each in events[1:]]
        await park(store, retried(events[0], delay=20), *behind)
        assert list(await store.parked.due(10)) == []
        await park(store, retried(events[1], delay=0))
        assert list(await store.parked.due(10)) == []

    async def test_an_event_waits_for_its_own_time_behind_one_that_is_due(
        self, store: OutboxStore, events: list[Event]
    ) -> None:
        await park(store, retried(events[1], delay=20), retried(events[2]))
        await park(store, retried(events[0]))
        assert subjects(await store.parked.due(10)) == ["a.1"]

    async def test_an_event_that_an_outage_holds_up_stops_those_behind_it(
        self, store: OutboxStore, events: list[Event]
    ) -> None:
        full = Held("stream FULL", "maximum messages exceeded", 10077)
        await park(store, disposition.held(events[1], full), disposition.behind(events[2]))
        await park(store, retried(events[0]))
        assert subjects(await store.parked.due(10, without=["stream FULL"])) == ["a.1"]
        assert subjects(await store.parked.due(10)) == ["a.1", "a.2", "a.3"]

    async def test_a_long_queue_of_one_key_does_not_keep_the_others_waiting(
        self, harness: ParkedHarness, store: OutboxStore, events: list[Event]
    ) -> None:
        await harness.commit("b.1", key="other")
        await harness.commit("c.1", key=None)
        (page,) = await read_all(store)
        behind = [disposition.behind(each) for each in events[1:]]
        await park(store, retried(events[0]), *behind, *map(retried, page.events))
        assert subjects(await store.parked.due(3)) == ["a.1", "b.1", "c.1"]

    async def test_what_is_due_behind_an_event_that_is_not_keeps_nobody_else_waiting(
        self, harness: ParkedHarness, store: OutboxStore, events: list[Event]
    ) -> None:
        await harness.commit("b.1", key="other")
        (page,) = await read_all(store)
        await park(store, *map(retried, events))
        await park(store, retried(events[0], attempts=2, delay=20))
        await park(store, *map(retried, page.events))
        assert subjects(await store.parked.due(1)) == ["b.1"]
        await park(store, unparked=[events[0]])
        assert subjects(await store.parked.due(10)) == ["a.2", "a.3", "b.1"]

    async def test_an_event_behind_one_that_has_gone_meanwhile_is_due(
        self, store: OutboxStore, events: list[Event]
    ) -> None:
        await park(store, disposition.behind(events[1]))
        assert subjects(await store.parked.due(10)) == ["a.2"]

    async def test_when_the_first_is_stored_the_next_is_due(
        self, store: OutboxStore, events: list[Event]
    ) -> None:
        behind = [disposition.behind(each) for each in events[1:]]
        await park(store, retried(events[0], delay=20), *behind)
        await park(store, unparked=[events[0]])
        assert subjects(await store.parked.due(10)) == ["a.2", "a.3"]
        await park(store, retried(events[1], delay=20))
        assert list(await store.parked.due(10)) == []

    async def test_when_the_first_dies_its_key_moves_on(
        self, store: OutboxStore, events: list[Event]
    ) -> None:
        await park(store, retried(events[0], delay=20), disposition.behind(events[1]))
        await park(store, dead(events[0]))
        assert subjects(await store.parked.due(10)) == ["a.2"]
        await park(store, unparked=[events[1]])
        assert await store.parked.blocked({"k"}) == set()
        assert (await store.look(None)).blocking is False

    async def test_a_dead_event_can_block_its_key(self, harness: ParkedHarness) -> None:
        await harness.dead_events_block()
        events = await committed(harness, "a.1", "a.2")
        store = harness.terms[-1]
        await park(store, retried(events[0], delay=20), disposition.behind(events[1]))
        await park(store, dead(events[0]))
        assert list(await store.parked.due(10)) == []
        assert await store.parked.blocked({"k"}) == {"k"}
        assert (await store.look(None)).blocking is True
        await harness.retry(events[0])
        assert subjects(await store.parked.due(10)) == ["a.1", "a.2"]

    async def test_events_without_a_key_wait_for_nobody(self, harness: ParkedHarness) -> None:
        events = await committed(harness, "a.1", "a.2", key=None)
        store = harness.terms[-1]
        await park(store, retried(events[0], delay=20), retried(events[1]))
        assert subjects(await store.parked.due(10)) == ["a.2"]

    async def test_an_event_without_a_key_is_looked_for_as_long_as_it_is_parked_and_not_dead(
        self, harness: ParkedHarness
    ) -> None:
        (event,) = await committed(harness, "a.1", key=None)
        store = harness.terms[-1]
        await park(store, retried(event, delay=20))
        assert (await store.look(None)).blocking is True
        await park(store, dead(event))
        assert (await store.look(None)).blocking is False

    async def test_what_an_outage_holds_up_can_be_left_out(
        self, store: OutboxStore, events: list[Event]
    ) -> None:
        full = Held("stream FULL", "maximum messages exceeded", 10077)
        await park(store, disposition.held(events[0], full), disposition.behind(events[1]))
        (first, second) = await store.parked.due(10)
        assert (first.held_by, first.attempts, second.held_by) == ("stream FULL", 0, "")
        assert list(await store.parked.due(10, without=["stream FULL"])) == []
        assert subjects(await store.parked.due(10, without=["stream OTHER"])) == ["a.1", "a.2"]
        backlog = await store.look(None)
        assert (backlog.parked, backlog.dead, backlog.held) == (2, 0, 1)
        assert backlog.lag >= backlog.held_lag > 0

    async def test_an_event_that_was_never_refused_is_of_no_age(
        self, harness: ParkedHarness, store: OutboxStore, events: list[Event]
    ) -> None:
        full = Held("stream FULL", "maximum messages exceeded", 10077)
        await park(store, disposition.held(events[0], full), disposition.behind(events[1]))
        assert [each.age for each in await store.parked.due(10)] == [0.0, 0.0]
        await park(store, dead(events[0]))
        await harness.retry(events[0])
        assert [each.age for each in await store.parked.due(10)] == [0.0, 0.0]

    async def test_a_person_s_retry_comes_with_a_message_id_of_its_own(
        self, harness: ParkedHarness, store: OutboxStore, events: list[Event]
    ) -> None:
        await park(store, dead(events[0]))
        assert list(await store.parked.due(10)) == []
        await harness.retry(events[0])
        (due,) = await store.parked.due(10)
        assert due.attempts == 0
        assert due.event.message_id == f"relay-{events[0].event_id}-1"
        await park(store, dead(events[0]))
        await harness.retry(events[0])
        (due,) = await store.parked.due(10)
        assert due.event.message_id == f"relay-{events[0].event_id}-2"

    async def test_the_queue_outlives_its_term(
        self, harness: ParkedHarness, store: OutboxStore, events: list[Event]
    ) -> None:
        page = Settlement(None, [retried(events[0]), disposition.behind(events[1])])
        await store.settle(page)
        await store.close()
        later = await lead(harness)
        assert await later.parked.blocked({"k"}) == {"k"}
        assert subjects(await later.parked.due(10)) == ["a.1", "a.2"]

    async def test_a_term_that_is_over_changes_nothing(
        self, harness: ParkedHarness, store: OutboxStore, events: list[Event], usurp: Any
    ) -> None:
        await park(store, retried(events[0]))
        await usurp(store)
        with pytest.raises(TermLost):
            await park(store, unparked=[events[0]])
        with pytest.raises(TermLost):
            await park(store, dead(events[0]))
        await store.close()
        (due,) = await (await lead(harness)).parked.due(10)
        assert due.attempts == 1

    async def test_whoever_waits_longest_for_a_try_comes_first(
        self, harness: ParkedHarness, store: OutboxStore
    ) -> None:
        # R-FATE: nobody starves behind events that are tried again and again
        await harness.commit("b.1", "b.2", "b.3", key=None)
        (page,) = await read_all(store)
        await park(store, *map(retried, page.events))
        tried: list[str] = []
        for attempt in range(2, 5):
            (due,) = await store.parked.due(1)
            tried.append(due.event.subject)
            await park(store, retried(due.event, attempts=attempt))
        assert sorted(tried) == ["b.1", "b.2", "b.3"]

    async def test_everything_undelivered_counts_for_the_lag(self, harness: ParkedHarness) -> None:
        await harness.commit("a.1", "a.2")
        store = await lead(harness)
        (page,) = await read_all(store)
        first, second = page.events
        parked = [retried(first, delay=20), disposition.behind(second)]
        await store.settle(Settlement(page.position, parked))
        backlog = await store.look(None)
        assert (backlog.undelivered, backlog.parked) == (0, 2)
        assert backlog.lag > 0

    async def test_a_replayed_event_is_due_under_an_id_of_its_own_and_holds_back_its_key(
        self, harness: ParkedHarness
    ) -> None:
        await harness.commit("a.1", "a.2", key="k")
        store = await lead(harness)
        (page,) = await read_all(store)
        await store.settle(Settlement(page.position))
        first, second = page.events
        await harness.replay(first, second)
        assert await store.parked.blocked({"k", "other"}) == {"k"}
        due = await store.parked.due(10)
        assert [each.event.id for each in due] == [first.id, second.id]
        assert [each.replay for each in due] == [1, 1]
        assert [each.event.headers for each in due] == [{"Relay-Replay": "1"}] * 2
        assert due[0].event.message_id == f"relay-{first.event_id}-r1"
        assert due[0].event.payload == first.payload
        await park(store, unparked=[first, second])
        assert await store.parked.blocked({"k"}) == set()

    async def test_a_replayed_event_was_delivered_and_counts_neither_as_parked_nor_for_the_lag(
        self, harness: ParkedHarness
    ) -> None:
        await harness.commit("a.1", "a.2", key="k")
        store = await lead(harness)
        (page,) = await read_all(store)
        await store.settle(Settlement(page.position))
        await harness.replay(*page.events)
        backlog = await store.look(None)
        assert (backlog.parked, backlog.dead, backlog.lag) == (0, 0, 0.0)
        assert backlog.blocking is True
        await park(store, dead(page.events[0]))
        backlog = await store.look(None)
        assert (backlog.parked, backlog.dead, backlog.lag) == (1, 1, 0.0)
        await harness.retry(page.events[0])
        (first, _) = await store.parked.due(10)
        assert first.event.message_id == f"relay-{page.events[0].event_id}-r1-1"

    async def test_a_live_event_that_waits_for_a_replayed_one_counts_as_parked(
        self, harness: ParkedHarness
    ) -> None:
        await harness.commit("a.1", key="k")
        store = await lead(harness)
        (page,) = await read_all(store)
        await store.settle(Settlement(page.position))
        await harness.replay(*page.events)
        await harness.commit("a.2", key="k")
        (live,) = await read_all(store)
        await store.settle(Settlement(live.position, [disposition.behind(live.events[0])]))
        backlog = await store.look(None)
        assert (backlog.parked, backlog.lag > 0) == (1, True)
        assert subjects(await store.parked.due(10)) == ["a.1", "a.2"]
