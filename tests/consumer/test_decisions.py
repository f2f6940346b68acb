"""A person's decision and a consumer's transactions about the same key, at the same time."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from relay.consumer import Message
from relay.consumer.database import Inbox, Taking, Term
from relay.consumer.psycopg import PsycopgDatabase
from relay.postgres.sqlfiles import INBOX_KEY_CLASS, text
from tests.consumer.rig import World, apply, until

# R-ORDER R-FATE
pytestmark = pytest.mark.anyio

DEAD = "array(select id from relay.inbox_parked where dead_at is not null)"
DROP = f"select relay.inbox_drop({DEAD}, 'me')"
RETRY = DROP.replace("inbox_drop", "inbox_retry")
STATES = (
    "select sequence, case when dead_at is not null then 'dead'"
    " when next_attempt_at is not null then 'due' else 'waits' end"
    " from relay.inbox_parked order by id"
)


def message(sequence: int, key: str | None = "k") -> Message:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Message(f"m{sequence}", "a.b", key, {}, b'{"number": 1}', "S", sequence, at)


@dataclass
class Led:
    """A consumer's inbox, in a term, without the consumer."""

    there: World
    inbox: Inbox
    term: Term

    @asynccontextmanager
    async def taking(self, sequence: int) -> AsyncIterator[Taking]:
        async with self.inbox.taking(self.term, [message(sequence)]) as taking:
            yield taking

    async def park(self, sequence: int, error: str = "", delay: float | None = None) -> None:
        async with self.taking(sequence) as taking:
            await self.inbox.park(taking, [message(sequence)], error=error, delay=delay)

    def states(self) -> list[tuple[Any, ...]]:
        return self.there.ask(STATES)

    @contextmanager
    def undecided(self, decision: str) -> Iterator[psycopg.Connection[Any]]:
        """Decide in a transaction that is still open for the block."""
        with psycopg.connect(self.there.dsn) as person:
            person.execute(decision.encode())
            yield person

    async def somebody_waits_for(self, person: psycopg.Connection[Any]) -> None:
        waits = "select from pg_stat_activity as a where %s = any (pg_blocking_pids(a.pid))"
        pid = person.info.backend_pid
        await until(lambda: self.there.ask(f"select exists ({waits})", pid) == [(True,)])


async def led(there: World, *, dead_blocks: bool = True) -> Led:
    inbox = Inbox(PsycopgDatabase(there.pool), "billing", handler_timeout=30.0)
    term = await inbox.lead("me", "S", [], dead_blocks=dead_blocks, lifetime=60.0)
    assert term is not None
    return Led(there, inbox, term)


async def test_what_is_parked_while_a_drop_commits_is_due(there: World) -> None:
    billing = await led(there)
    await billing.park(1, error="no")
    with billing.undecided(DROP) as person:
        parks = asyncio.create_task(billing.park(2))
        await billing.somebody_waits_for(person)
        person.commit()
        await parks
    assert billing.states() == [(2, "due")]


@pytest.mark.parametrize(
    ("decision", "states"),
    [(DROP, [(2, "due")]), (RETRY, [(1, "due"), (2, "waits")])],
    ids=["drop", "retry"],
)
async def test_a_decision_between_taking_and_parking_waits_for_nobody_and_is_seen(
    there: World, decision: str, states: list[tuple[int, str]]
) -> None:
    billing = await led(there)
    await billing.park(1, error="no")
    async with billing.taking(2) as taking:
        assert taking.blocked == {"k"}
        there.ask(f"set statement_timeout = '10s'; {decision}")  # a handler is under way meanwhile
        await billing.inbox.park(taking, [message(2)])
    assert billing.states() == states


async def test_a_decision_behind_what_is_parked_and_not_committed_sees_it(there: World) -> None:
    billing = await led(there)
    await billing.park(1, error="no")
    decides = threading.Thread(target=there.ask, args=(DROP,))
    async with billing.taking(2) as taking:
        await billing.inbox.park(taking, [message(2)])
        decides.start()
        blocked = "select exists (select from pg_locks where not granted and locktype = 'advisory')"
        await until(lambda: there.ask(blocked) == [(True,)])
    await asyncio.to_thread(decides.join)
    assert billing.states() == [(2, "due")]


async def test_what_is_refused_while_an_earlier_one_is_retried_waits_behind_it(
    there: World,
) -> None:
    billing = await led(there, dead_blocks=False)
    await billing.park(1, error="no")
    with billing.undecided(RETRY) as person:
        parks = asyncio.create_task(billing.park(2, error="no", delay=60.0))
        await billing.somebody_waits_for(person)
        person.commit()
        await parks
    assert billing.states() == [(1, "due"), (2, "waits")]


async def test_what_is_handled_or_refused_again_while_an_earlier_one_is_retried_is_lined_up(
    there: World,
) -> None:
    """The retried one is first; what a lane does meanwhile makes no second one due."""
    for refused in (True, False):
        there.ask("truncate relay.inbox, relay.inbox_parked restart identity")
        billing = await led(there, dead_blocks=False)
        await billing.park(1, error="no")
        await billing.park(2, error="no", delay=0.0)
        await billing.park(3)
        async with billing.inbox.retaking(billing.term, 2, 1) as taking:
            (parked,) = taking.parked
            if refused:
                taking.parked.clear()
            with billing.undecided(RETRY) as person:
                person.commit()
        if refused:
            await billing.inbox.refuse(billing.term, parked, error="no", delay=60.0)
        states = [(1, "due"), *([(2, "waits")] if refused else []), (3, "waits")]
        assert billing.states() == states
        there.ask("update relay.inbox_consumer set lease_until = now()")


@pytest.mark.parametrize("refused", [False, True], ids=["handled", "refused again"])
async def test_a_lane_locks_the_key_before_the_row_as_decisions_do(
    there: World, refused: bool
) -> None:
    """The other way round, a lane and a decision would wait for each other."""
    billing = await led(there, dead_blocks=False)
    await billing.park(1, error="no")
    await billing.park(2, error="no", delay=0.0)

    async def work() -> None:
        async with billing.inbox.retaking(billing.term, 2, 1) as taking:
            (parked,) = taking.parked
            if refused:
                taking.parked.clear()
        if refused:
            await billing.inbox.refuse(billing.term, parked, error="no", delay=60.0)

    with billing.undecided(DROP) as person:
        lane = asyncio.create_task(work())
        await billing.somebody_waits_for(person)
        there.ask("select from relay.inbox_parked where sequence = 2 for update nowait")
        person.commit()
        await lane
    assert billing.states() == ([(2, "due")] if refused else [])


async def test_two_people_who_decide_at_once_decide_once(there: World) -> None:
    billing = await led(there)
    async with billing.inbox.taking(billing.term, [message(1, None)]) as taking:
        await billing.inbox.park(taking, [message(1, None)], error="no")
    second = threading.Thread(target=there.ask, args=(RETRY,))
    with billing.undecided(RETRY) as person:
        second.start()
        await billing.somebody_waits_for(person)
        person.commit()
    await asyncio.to_thread(second.join)
    assert there.ask("select action from relay.inbox_decision") == [("retry",)]


async def test_a_key_goes_on_whose_message_comes_while_its_head_is_dropped(there: World) -> None:
    async def handle(connection: Any, message: Message) -> None:
        if message.id == "poison":
            raise ValueError("no such account")
        await apply(connection, message)

    async with there.running(handle, max_attempts=1) as consumer:
        await there.publish(1, "k", id_="poison")
        await until(lambda: consumer.counts.parked == 1)
        with psycopg.connect(there.dsn) as person:
            person.execute(DROP.encode())
            await there.publish(2, "k")
            waits = "select exists (select from pg_locks where not granted)"
            await until(lambda: there.ask(waits) == [(True,)])
            person.commit()
        await until(lambda: there.numbers() == [2])
        await until(lambda: there.ask("select count(*) from relay.inbox_parked") == [(0,)])


async def test_the_class_of_the_keys_lock_is_the_one_of_the_list() -> None:
    assert str(INBOX_KEY_CLASS) in text("inbox/functions/inbox_lock_keys")
