"""What every outbox adapter keeps, written once and run against each of them."""

from collections.abc import Sequence
from typing import Any, Protocol

import anyio
import pytest

from relay.core.disposition import Parking
from relay.core.event import Event
from relay.errors import TermLost
from relay.ports import Outbox, OutboxStore, Page, Settlement

pytestmark = pytest.mark.anyio


class Harness(Protocol):
    """One fresh outbox, and a producer for it."""

    outbox: Outbox
    terms: list[OutboxStore]
    """Every term begun; the harness closes them."""

    async def commit(self, *subjects: str, key: str | None = None) -> list[str]:
        """Commit one event a subject in one transaction; their event_ids."""
        ...


async def lead(harness: Harness) -> OutboxStore:
    """Campaign until a term begins: the loser's session may need a moment to be seen as gone."""
    with anyio.fail_after(10):
        while (store := await harness.outbox.campaign("tester")) is None:
            await anyio.sleep(0.01)
    harness.terms.append(store)
    return store


async def read_all(store: OutboxStore, limit: int = 100) -> list[Page]:
    pages = []
    while (page := await store.read(limit)).events:
        pages.append(page)
    return pages


def subjects(pages: Sequence[Page]) -> list[str]:
    return [event.subject for page in pages for event in page.events]


def dead(event: Event) -> Parking:
    return Parking(event.id, event.event_id, 3, None, dead=True, error="too large", code=10054)


def retried(event: Event, *, attempts: int = 1, delay: float = 0.0) -> Parking:
    return Parking(event.id, event.event_id, attempts, delay, error="too large", code=10054)


class OutboxContract:
    """Subclass it with a fixture ``harness``. R-PHANTOM, R-LOSS, R-TERM."""

    async def test_an_empty_outbox_reads_as_an_empty_page(self, harness: Harness) -> None:
        store = await lead(harness)
        page = await store.read(10)
        assert list(page.events) == []
        assert page.full is False

    async def test_an_event_is_read_with_all_that_was_written(self, harness: Harness) -> None:
        (event_id,) = await harness.commit("a.b", key="k")
        (page,) = await read_all(await lead(harness))
        (event,) = page.events
        assert (event.event_id, event.message_id) == (event_id, f"relay-{event_id}")
        assert (event.subject, event.key, event.payload) == ("a.b", "k", b'{"n": 1}')
        assert event.created_at.utcoffset() is not None

    async def test_events_come_in_the_order_of_writing_and_each_once(
        self, harness: Harness
    ) -> None:
        for number in range(7):
            await harness.commit(f"a.{number}", key="k")
        store = await lead(harness)
        assert subjects(await read_all(store, 3)) == [f"a.{number}" for number in range(7)]
        assert list((await store.read(3)).events) == []

    async def test_a_page_never_exceeds_its_limit_and_says_when_more_waits(
        self, harness: Harness
    ) -> None:
        await harness.commit(*[f"a.{number}" for number in range(5)])
        store = await lead(harness)
        pages = await read_all(store, 2)
        assert [len(page.events) for page in pages] == [2, 2, 1]
        assert [page.full for page in pages] == [True, True, False]

    async def test_what_commits_later_is_read_later(self, harness: Harness) -> None:
        store = await lead(harness)
        await harness.commit("a.1")
        assert subjects(await read_all(store)) == ["a.1"]
        await harness.commit("a.2")
        assert subjects(await read_all(store)) == ["a.2"]

    async def test_the_next_term_reads_on_behind_the_last_settlement(
        self, harness: Harness
    ) -> None:
        await harness.commit("a.1", "a.2", "a.3", "a.4")
        store = await lead(harness)
        first = await store.read(1)
        second = await store.read(2)
        assert len(second.events) == 2
        await store.settle(Settlement(first.position))
        await store.close()
        assert subjects(await read_all(await lead(harness))) == ["a.2", "a.3", "a.4"]

    async def test_what_was_settled_whole_does_not_come_again(self, harness: Harness) -> None:
        await harness.commit("a.1", "a.2", "a.3")
        store = await lead(harness)
        for page in await read_all(store, 1):
            await store.settle(Settlement(page.position))
        await store.close()
        assert await read_all(await lead(harness)) == []

    async def test_only_one_leads_at_a_time(self, harness: Harness) -> None:
        store = await lead(harness)
        assert await harness.outbox.campaign("another") is None
        await store.close()
        assert (await lead(harness)).epoch > store.epoch

    async def test_a_closed_term_can_settle_nothing_after_the_next_has_begun(
        self, harness: Harness, usurp: Any
    ) -> None:
        await harness.commit("a.1")
        store = await lead(harness)
        page = await store.read(1)
        await usurp(store)
        with pytest.raises(TermLost):
            await store.settle(Settlement(page.position))
        with pytest.raises(TermLost):
            await store.look(None)
        await store.close()
        assert subjects(await read_all(await lead(harness))) == ["a.1"]

    async def test_the_backlog_counts_what_is_not_settled(self, harness: Harness) -> None:
        store = await lead(harness)
        assert await store.look(None) == (await store.look(None))
        assert (await store.look(None)).undelivered == 0
        await harness.commit("a.1", "a.2", "a.3")
        page = await store.read(2)
        backlog = await store.look(None)
        assert backlog.undelivered == 3
        assert backlog.lag > 0
        await store.settle(Settlement(page.position))
        assert (await store.look(None)).undelivered == 1

    async def test_a_parked_event_is_kept_and_passed_over(self, harness: Harness) -> None:
        await harness.commit("a.1", "a.2")
        store = await lead(harness)
        page = await store.read(2)
        await store.settle(Settlement(page.position, [dead(page.events[0])]))
        backlog = await store.look(None)
        assert (backlog.undelivered, backlog.parked, backlog.dead) == (0, 1, 1)
        await store.close()
        assert await read_all(await lead(harness)) == []

    async def test_pruning_takes_nothing_that_is_not_settled(self, harness: Harness) -> None:
        await harness.commit("a.1", "a.2")
        store = await lead(harness)
        await store.read(1)
        await store.tend(0.0)
        await store.close()
        assert subjects(await read_all(await lead(harness))) == ["a.1", "a.2"]

    async def test_a_look_behind_a_place_counts_only_what_is_behind_it(
        self, harness: Harness
    ) -> None:
        await harness.commit("a.1", "a.2", "a.3")
        store = await lead(harness)
        page = await store.read(2)
        assert (await store.look(page.position)).undelivered == 1
        assert (await store.look(None)).undelivered == 3

    async def test_streams_are_remembered_beyond_the_term(self, harness: Harness) -> None:
        # R-FATE
        store = await lead(harness)
        await store.keep_streams({"ORDERS": {"orders.>"}})
        await store.keep_streams({"ORDERS": {"orders.>", "old.>"}, "OTHER": {"other.*"}})
        await store.close()
        kept = await (await lead(harness)).streams()
        assert {name: set(subjects) for name, subjects in kept.items()} == {
            "ORDERS": {"orders.>", "old.>"},
            "OTHER": {"other.*"},
        }

    async def test_a_leader_may_send_until_another_term_has_begun(
        self, harness: Harness, usurp: Any
    ) -> None:
        # R-TERM
        store = await lead(harness)
        assert store.granted()
        await store.renew()
        await usurp(store)
        with pytest.raises(TermLost):
            await store.renew()
        assert not store.granted()

    async def test_a_page_says_below_which_transaction_nothing_runs(self, harness: Harness) -> None:
        await harness.commit("a.1")
        store = await lead(harness)
        first = (await store.read(10)).xmin
        await harness.commit("a.2")
        assert 0 < first <= (await store.read(10)).xmin
