"""Real concurrent transactions, driven by Hypothesis, against the snapshot cursor.

Three writers begin, insert, set savepoints and go back to them, commit, roll back and stay open, in
any interleaving; the relay's side reads pages of any size, settles, restarts from the stored
cursor, and prunes. The model is a list: what committed, and when.

    nothing skipped    when a read finds nothing, everything committed has been read
    no phantom         only committed events are read
    nothing twice      within a term, and never again once settled
    order per key      an event written after another one's commit comes after it
    nothing pruned     that is not settled
"""

import asyncio
import contextlib
import uuid
from typing import Any

import anyio
import hypothesis
import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from relay.core.event import Event
from relay.ports import Page, Settlement
from relay.postgres.outbox import PostgresOutbox
from relay.postgres.session import Session
from tests.postgres.leases import PATIENT

PAGE_BYTES = 1500
"""Small enough that a few of the larger payloads fill a page."""

writers = st.integers(0, 2)


class Writer:
    """A producer's connection and what its open transaction has written, per savepoint."""

    def __init__(self, dsn: str) -> None:
        self.connection = psycopg.connect(dsn)
        self.levels: list[list[int]] = []

    @property
    def open(self) -> bool:
        return bool(self.levels)


class Machine(RuleBasedStateMachine):
    dsn: str
    outbox_class: type[PostgresOutbox] = PostgresOutbox

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.writers = [Writer(self.dsn) for _ in range(3)]
        self.look = psycopg.connect(self.dsn, autocommit=True)
        self.step = 0
        self.key_of: dict[int, str | None] = {}
        self.written_at: dict[int, int] = {}
        self.committed_at: dict[int, int] = {}
        self.read: list[int] = []
        self.settled: set[int] = set()
        self.unsettled: list[tuple[object, list[int]]] = []
        self.empty = False  # whether the last page was: of a window's end, behind which more waits

    @initialize()
    def empty_outbox(self) -> None:
        self.look.execute("delete from relay.parked")
        self.look.execute("truncate relay.outbox, relay.settled")
        self.look.execute("update relay.cursor set base = '1:1:', target = null, last_id = 0")
        self.outbox = self.outbox_class(
            self.dsn, "relay", page_bytes=PAGE_BYTES, lease_lifetime=PATIENT
        )
        self.store = self.runner.run(self._lead())

    async def _lead(self) -> Any:
        with anyio.fail_after(10):
            while (store := await self.outbox.campaign(uuid.uuid4().hex)) is None:
                await anyio.sleep(0.002)
        return store

    # Writers. Few rules with choices inside: rules are drawn evenly, and most must write or read.

    @rule(
        writer=writers,
        early=st.booleans(),
        count=st.sampled_from([1, 1, 2, 6]),
        key=st.sampled_from(["a", "b", None]),
        size=st.sampled_from([10, 10, 10, 700, 2000]),
    )
    def insert(self, writer: int, early: bool, count: int, key: str | None, size: int) -> None:
        w = self.writers[writer]
        if not w.open:
            w.levels = [[]]
            if early:  # the transaction's id is older than those of all its events
                w.connection.execute("select pg_current_xact_id()")
                return
        self.step += 1
        rows = w.connection.execute(
            "insert into relay.outbox (subject, key, payload)"
            " select 'a.b', %s, to_json(repeat('x', %s)) from generate_series(1, %s)"
            " returning id",
            (key, size, count),
        ).fetchall()
        for (id_,) in rows:
            w.levels[-1].append(id_)
            self.key_of[id_] = key
            self.written_at[id_] = self.step

    @rule(writer=writers, back=st.booleans())
    def savepoint(self, writer: int, back: bool) -> None:
        w = self.writers[writer]
        if back and len(w.levels) > 1:
            w.connection.execute(f"rollback to savepoint s{len(w.levels) - 1}")
            w.levels[-1] = []
        elif w.open and len(w.levels) < 4:
            w.connection.execute(f"savepoint s{len(w.levels)}")
            w.levels.append([])

    @rule(writer=writers, how=st.sampled_from(["commit", "commit", "commit", "roll back"]))
    def end(self, writer: int, how: str) -> None:
        w = self.writers[writer]
        if how == "roll back":
            w.connection.rollback()
        else:
            w.connection.commit()
            self.step += 1
            self.committed_at |= {id_: self.step for level in w.levels for id_ in level}
        w.levels = []

    @rule(order=st.permutations(range(3)), key=st.sampled_from(["a", "b"]))
    def overlap(self, order: list[int], key: str) -> None:
        """Write in one order, commit in another, and read in between: what a cursor by id loses."""
        for writer in range(3):
            self.insert(writer, early=False, count=1, key=key, size=10)
        for writer in order:
            self.end(writer, "commit")
            self.read_pages(9, until_nothing_is_left=False)

    # The relay's side.

    @rule(limit=st.integers(1, 9), until_nothing_is_left=st.booleans())
    def read_pages(self, limit: int, until_nothing_is_left: bool) -> None:
        while self._take(self.runner.run(self.store.read(limit)), limit):
            if not until_nothing_is_left:
                break

    @precondition(lambda self: self.unsettled)
    @rule(pages=st.integers(1, 3))
    def settle(self, pages: int) -> None:
        for position, ids in self.unsettled[:pages]:
            self.runner.run(self.store.settle(Settlement(position)))
            self.settled |= set(ids)
        del self.unsettled[:pages]

    @rule(what=st.sampled_from(["restart", "prune"]))
    def disturb(self, what: str) -> None:
        if what == "prune":
            self.runner.run(self.store.tend(0.0))
            return
        self.runner.run(self.store.close())
        self.store = self.runner.run(self._lead())
        self.unsettled, self.empty = [], False
        self.read = [id_ for id_ in self.read if id_ in self.settled]

    def _take(self, page: Page, limit: int) -> bool:
        events: list[Event] = list(page.events)
        assert len(events) <= limit
        sizes = [len(event.payload) for event in events]
        assert sum(sizes[:-1]) < PAGE_BYTES, "a page goes on past its bytes"
        if not events:
            left = set(self.committed_at) - set(self.read)
            assert page.full or not left, f"skipped: {sorted(left)}"
            assert not (page.full and self.empty), "it says again that more waits, and brings none"
        self.empty = not events
        self.read.extend(event.id for event in events)
        if page.position is not None:
            self.unsettled.append((page.position, [event.id for event in events]))
        return page.full or bool(events)

    @invariant()
    def only_committed_events_are_read(self) -> None:
        assert set(self.read) <= set(self.committed_at)

    @invariant()
    def nothing_is_read_twice(self) -> None:
        assert len(self.read) == len(set(self.read))

    @invariant()
    def keys_keep_their_order(self) -> None:
        for key in ("a", "b"):
            mine = [id_ for id_ in self.read if self.key_of[id_] == key]
            latest_writing = 0
            last_of: dict[int, int] = {}
            for id_ in mine:
                transaction = self.committed_at[id_]
                assert last_of.get(transaction, 0) < id_
                last_of[transaction] = id_
                # Nothing read earlier may have been written after this one had committed.
                assert latest_writing <= self.committed_at[id_]
                latest_writing = max(latest_writing, self.written_at[id_])

    @invariant()
    def nothing_unsettled_is_pruned(self) -> None:
        waiting = sorted(set(self.committed_at) - self.settled)
        if waiting:
            found = self.look.execute(
                "select count(*) from relay.outbox where id = any(%s)", (waiting,)
            ).fetchone()
            assert found == (len(waiting),)

    def teardown(self) -> None:
        for connection in (self.look, *(w.connection for w in self.writers)):
            connection.close()
        with contextlib.suppress(AttributeError):
            self.runner.run(self.store.close())
            self.runner.run(self.outbox.close())
        self.runner.close()


def drive(dsn: str, outbox_class: type[PostgresOutbox], examples: int, **more: Any) -> None:
    class Driven(Machine):
        pass

    Driven.dsn = dsn
    Driven.outbox_class = outbox_class
    run_state_machine_as_test(
        Driven,
        settings=hypothesis.settings(
            max_examples=examples, stateful_step_count=40, database=None, **more
        ),
    )


@pytest.mark.slow
def test_no_interleaving_of_transactions_loses_repeats_or_reorders_an_event(
    outbox_dsn: str,
) -> None:
    drive(outbox_dsn, PostgresOutbox, examples=40)


class ByIdOutbox(PostgresOutbox):
    """The cursor that everybody writes first: id > last."""

    async def campaign(self, holder: str) -> Any:
        store = await super().campaign(holder)
        if store is not None:
            store.read = ByIdReader(store._reader.session).read  # type: ignore[method-assign]
        return store


class ByIdReader:
    def __init__(self, session: Session) -> None:
        self.session = session
        self.last = 0

    async def read(self, limit: int) -> Page:
        cursor = await self.session.connection.execute(
            "select id, event_id::text, event_id::text, subject, key, created_at, null, ''::bytea"
            " from relay.outbox where id > %s order by id limit %s",
            (self.last, limit),
        )
        events = [Event(*row) for row in await cursor.fetchall()]
        if events:
            self.last = events[-1].id
        return Page(events, None, full=False)


@pytest.mark.slow
def test_a_cursor_by_id_is_caught(outbox_dsn: str) -> None:
    with pytest.raises(AssertionError, match="skipped"):
        drive(outbox_dsn, ByIdOutbox, examples=200, phases=[hypothesis.Phase.generate])
