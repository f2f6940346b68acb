"""The inbox: what a consumer asks of its database, over any driver.

An adapter (``relay.consumer.psycopg``, ``relay.consumer.sqlalchemy``) gives transactions; every
statement stands in ``sql/inbox/queries``. Authoritative: the inbox's rows. A message is done once
the transaction that took it has committed, whatever else anybody remembers.

    TermLost       another process leads: nothing of this transaction is kept
    StoreOutage    later: away, silent, starting, read-only
    StoreBusy      at once: a deadlock, a serialization failure
    SchemaError    a person has to act: the inbox is not there, or may not be used
    any other      what the handler raised, or the driver raised because of it
"""

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from relay.consumer.message import Message
from relay.core import durations
from relay.core.subjects import matches
from relay.errors import NOT_THERE, RelayError, SchemaError, StoreBusy, StoreOutage, TermLost
from relay.postgres.sqlfiles import names, text

STATEMENT_DEADLINE: Final = 8.0
"""Seconds that one of our statements may take, and a session may be waited for."""

LOCK_TIMEOUT: Final = "1s"
"""How long a takeover waits at a time for the transactions of the term before."""

Row = Sequence[Any]

_LATER: Final = ("08", "25006", "53", "57014", "57P", "58")
"""Beginnings of SQLSTATEs of our own statements that mean: later."""

_LATER_IN_HANDLER: Final = ("08", "25006", "53", "57P")
"""The same of a handler's: its own lock_timeout or statement_timeout is its failure."""


class Transaction(Protocol):
    """A transaction under way."""

    @property
    def connection(self) -> Any:
        """What the handler gets."""

    async def rows(self, name: str, params: Mapping[str, object]) -> Sequence[Row]:
        """Run ``sql/inbox/queries/<name>.sql``."""


class Database(Protocol):
    """Where transactions come from: one file a driver."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin one; commit at the end of the block, roll back if the block raises."""
        ...

    def sqlstate(self, error: BaseException) -> str | None:
        """Return the SQLSTATE; "" if the connection failed, None if it is no database error."""


@dataclass(frozen=True, slots=True)
class Term:
    """A term of one consumer.

    Attributes:
        position, position_at: up to there all are taken.
        added: subjects that no term has read up to there.
    """

    consumer: str
    epoch: int
    position: int
    position_at: datetime
    added: Sequence[str] = ()


@dataclass(slots=True)
class Taking:
    """The transaction of some messages' effects.

    Attributes:
        connection: what the handler gets.
        fresh: ids of those that nobody has taken before; each is to be handled or parked.
        blocked: keys that a parked message blocks.
    """

    connection: Any
    fresh: set[str] = field(default_factory=set)
    blocked: set[str] = field(default_factory=set)
    parked: list["Parked"] = field(default_factory=list)
    transaction: Transaction | None = None


@dataclass(frozen=True, slots=True)
class Parked:
    """A parked message; ``attempts`` refusals so far."""

    id: int
    message: Message
    attempts: int


class EndedByHandlerError(RelayError):
    """A handler committed or rolled back the transaction that it was given."""


class Inbox:
    """The statements of one consumer, in the schema that ``database`` knows."""

    def __init__(self, database: Database, consumer: str, *, handler_timeout: float) -> None:
        """Speak for ``consumer``. A transaction may be silent for ``handler_timeout`` s."""
        self._database = database
        self._consumer = consumer
        for name in names("inbox/queries"):
            text(name)  # now: a release may be installed over a process that lasts
        self._idle = f"{int(handler_timeout * 1000) + 1000}ms"

    async def lead(
        self,
        holder: str,
        stream: str,
        subjects: Sequence[str],
        *,
        dead_blocks: bool,
        lifetime: float,
    ) -> Term | None:
        """Begin a term, if the lease is free; None while another one lasts."""
        who = {"consumer": self._consumer}
        await self.ask("enter", who)
        async with self.failures(), self._database.transaction() as transaction:
            await _run(transaction, "patience", {"lock_timeout": LOCK_TIMEOUT})
            rows = await _run(
                transaction,
                "lead",
                who
                | {
                    "holder": holder,
                    "stream": stream,
                    "subjects": list(subjects),
                    "dead_blocks": dead_blocks,
                    "lifetime": lifetime,
                },
            )
            if not rows:
                return None
            await _run(transaction, "line_up", who | {"keys": None})
            epoch, position, position_at, before = rows[0]
        added = _added(before, subjects) if position else ()
        return Term(self._consumer, epoch, position, _aware(position_at), added)

    async def renew(
        self, term: Term, lifetime: float, position: int, position_at: datetime
    ) -> None:
        """Keep the lease for ``lifetime`` s more; 0 gives it back.

        Raises:
            TermLost: another term has begun.
        """
        where = {"consumer": term.consumer, "epoch": term.epoch, "lifetime": lifetime}
        where |= {"position": position, "position_at": position_at}
        if not await self.ask("renew", where):
            raise TermLost(f"another process leads the consumer {term.consumer!r}")

    async def ask(self, name: str, params: Mapping[str, object]) -> Sequence[Row]:
        """Run one statement in a transaction of its own."""
        async with self.failures(), self._database.transaction() as transaction:
            return await _run(transaction, name, params)

    @asynccontextmanager
    async def taking(self, term: Term, messages: Sequence[Message]) -> AsyncIterator[Taking]:
        """Take ``messages``; the block's effects commit with that, or nothing does."""
        params = {
            "consumer": term.consumer,
            "epoch": term.epoch,
            "message_ids": [message.id for message in messages],
            "keys": list({message.key for message in messages if message.key is not None}),
            "idle": self._idle,
        }
        async with self._sealed("take", params) as (transaction, rows):
            _, _, fresh, blocked, _ = rows[0]
            yield Taking(transaction.connection, set(fresh), set(blocked), [], transaction)

    @asynccontextmanager
    async def retaking(self, term: Term, id_: int, limit: int) -> AsyncIterator[Taking]:
        """Take the parked message ``id_``, and at most so many in all of those behind it.

        Those that the block leaves in ``parked`` leave the park.
        """
        params = {"consumer": term.consumer, "epoch": term.epoch, "id": id_}
        params |= {"limit_rows": limit, "idle": self._idle}
        async with self._sealed("retake", params) as (transaction, rows):
            parked = [_parked(row) for row in rows if row[2] is not None]
            yield Taking(transaction.connection, parked=parked, transaction=transaction)
            if parked:
                async with self._lining_up(transaction, [each.message.key for each in parked]):
                    ids = [each.id for each in parked]
                    await _run(transaction, "unpark", {"ids": ids})

    async def park(
        self,
        taking: Taking,
        messages: Sequence[Message],
        *,
        error: str = "",
        delay: float | None = None,
    ) -> None:
        """Park fresh messages: one that was refused, or without ``error`` those that wait.

        ``delay`` s until the next try; None makes the refused one dead.
        """
        assert taking.transaction is not None
        params: dict[str, object] = {
            "consumer": self._consumer,
            "stream": messages[0].stream,
            "message_ids": [each.id for each in messages],
            "subjects": [_text(each.subject) for each in messages],
            "keys": [each.key for each in messages],
            "headers": [json.dumps(dict(each.headers)) for each in messages],
            "sequences": [each.sequence for each in messages],
            "stored_ats": [each.stored_at for each in messages],
            "payloads": [each.payload for each in messages],
            "error": _text(error),
            "delay": delay,
        }
        await _run(taking.transaction, "park", params)

    async def refuse(self, term: Term, parked: Parked, *, error: str, delay: float | None) -> None:
        """Keep that a parked message was refused again; ``delay`` as in ``park``."""
        params = {"consumer": term.consumer, "epoch": term.epoch, "id": parked.id}
        params |= {"limit_rows": 1, "idle": self._idle}
        async with self._sealed("retake", params) as (transaction, rows):
            if rows[0][2] is None:
                return  # a person has decided meanwhile
            why = {"id": parked.id, "error": _text(error), "delay": delay}
            async with self._lining_up(transaction, [parked.message.key]):
                await _run(transaction, "refuse", why)

    @asynccontextmanager
    async def failures(self) -> AsyncIterator[None]:
        """Translate what the driver raises for statements of our own."""
        try:
            yield
        except (OSError, TimeoutError) as error:
            raise StoreOutage(str(error) or type(error).__name__) from error
        except Exception as error:
            raise self.translated(error, _LATER) from error

    def translated(self, error: Exception, later: Collection[str] = _LATER_IN_HANDLER) -> Exception:
        """Return our error for a driver's one; any other as it is."""
        state = None if isinstance(error, RelayError) else self._database.sqlstate(error)
        if state is None:
            return error
        words = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
        if state.startswith("40") or (later is _LATER and state == "55P03"):
            return StoreBusy(words)  # a deadlock, a serialization failure; a lock
        if state == "" or state.startswith(tuple(later)):
            return StoreOutage(words)
        if later is _LATER and state in NOT_THERE:
            return SchemaError(f"{words}: run `python -m relay inbox migrate` for this database")
        if later is _LATER and state == "42501":
            return SchemaError(f"{words}: grant this login the inbox's tables")
        return error

    @asynccontextmanager
    async def _sealed(
        self, name: str, params: Mapping[str, object]
    ) -> AsyncIterator[tuple[Transaction, Sequence[Row]]]:
        """Begin a transaction of the term; commit only what is still that very transaction.

        A handler that catches a failed statement's error leaves a transaction whose COMMIT is
        answered by ROLLBACK, in silence.
        """
        async with AsyncExitStack() as stack:
            async with self.failures():
                transaction = await stack.enter_async_context(self._database.transaction())
                rows = await _run(transaction, name, params)
            in_term, xid, *_ = rows[0]
            if not in_term:
                raise TermLost(f"another process leads the consumer {self._consumer!r}")
            yield transaction, rows
            if (await _run(transaction, "seal", {}))[0][0] != xid:
                raise EndedByHandlerError(
                    "the handler ended the transaction that it was given: it must neither commit "
                    "nor roll back"
                )

    @asynccontextmanager
    async def _lining_up(
        self, transaction: Transaction, keys: Sequence[str | None]
    ) -> AsyncIterator[None]:
        """Let the block change parked rows of ``keys``; hold off a decision about them."""
        changed = list({key for key in keys if key is not None})
        about = {"consumer": self._consumer, "keys": changed}
        if changed:
            await _run(transaction, "lock_keys", about)
        yield
        if changed:
            await _run(transaction, "line_up", about)


async def _run(transaction: Transaction, name: str, params: Mapping[str, object]) -> Sequence[Row]:
    try:
        async with asyncio.timeout(STATEMENT_DEADLINE):
            return await transaction.rows(name, params)
    except TimeoutError:
        raise StoreOutage(
            f"Postgres did not answer within {durations.format(STATEMENT_DEADLINE)}"
        ) from None


def _added(before: Sequence[str], subjects: Sequence[str]) -> list[str]:
    """Return those of ``subjects`` that none of ``before`` takes; no subjects are all."""
    return [
        subject
        for subject in subjects or (">",)
        if not any(matches(pattern, subject) for pattern in before or (">",))
    ]


def _parked(row: Row) -> Parked:
    id_, message_id, stream, sequence, stored_at, subject, key, headers, payload, attempts = row[
        2:12
    ]
    fields = json.loads(headers)
    message = Message(
        message_id, subject, key, fields, bytes(payload), stream, sequence, _aware(stored_at)
    )
    return Parked(id_, message, attempts)


def _aware(at: datetime) -> datetime:
    return at.astimezone(UTC)


def _text(text: str) -> str:
    """Return a text as Postgres takes it."""
    return text.replace("\0", "\\0").encode(errors="replace").decode()
