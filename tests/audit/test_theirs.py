"""The audit of another relay's table: each type of payload, and an outage before a verdict.

R-LOSS R-PHANTOM
"""

import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import nats
import psycopg
import pytest

from relay import devstack
from relay.audit import stream as messages
from relay.audit.oracle import Finding, Judge
from relay.audit.outbox import OutboxReader, Table
from relay.audit.run import Audit
from relay.errors import StoreOutage
from relay.jetstream.options import BusOptions
from relay.jetstream.reading import StreamReader
from relay.postgres.session import Session

pytestmark = pytest.mark.anyio

NAMED = Table("public.theirs", payload="body")
AS_WRITTEN = b'{"b": 2,  "a": "\xc3\xa9"}'
AS_JSONB = b'{"a":"\xc3\xa9","b":2}'
OTHER = b'{"a": "e", "b": 2}'


class Theirs:
    """A table, a stream, and what an audit of them has found."""

    def __init__(self, dsn: str, js: nats.js.JetStreamContext, reader: StreamReader) -> None:
        self.dsn = dsn
        self.stream = f"THEIRS_{uuid.uuid4().hex[:8]}"
        self.found: list[Finding] = []
        self._js = js
        self._reader = reader

    def write(self, body: bytes, kind: str) -> None:
        text = "%s" if kind == "bytea" else f"convert_from(%s, 'UTF8')::{kind}"
        insert = f"insert into theirs (body) values ({text})"
        with psycopg.connect(self.dsn) as connection:
            connection.execute(insert.encode(), (body,))

    async def publish(self, *payloads: bytes, ids: Sequence[object] = (1, 2)) -> None:
        for id_, payload in zip(ids, payloads, strict=False):
            headers = {"Nats-Msg-Id": str(id_)}
            await self._js.publish(f"{self.stream}.x", payload, headers=headers)

    def audit(
        self, session: Session, compare: str, kind: type[OutboxReader] = OutboxReader
    ) -> Audit:
        place = messages.header("Nats-Msg-Id")
        read = messages.theirs(place, None, payload=compare)
        outbox = kind(session, "relay", NAMED, compare)
        judge = Judge(self.found.append, has_keys=False)
        return Audit(outbox, self._reader, self.stream, read, judge, 0.0)


Make = Callable[[str], AbstractAsyncContextManager[Theirs]]


@pytest.fixture
def theirs(database: str, nats_server: devstack.NatsServer) -> Make:
    @asynccontextmanager
    async def make(kind: str) -> AsyncIterator[Theirs]:
        with psycopg.connect(database) as connection:
            connection.execute(
                b"create domain checked as jsonb check (value is not null);"
                b" create domain checked_twice as checked;"
                b" create table theirs (id bigserial primary key, body %b)" % kind.encode()
            )
        async with (
            await nats.connect(nats_server.url) as client,
            StreamReader.open(BusOptions(urls=(nats_server.url,))) as reader,
        ):
            made = Theirs(database, client.jetstream(), reader)
            await client.jetstream().add_stream(name=made.stream, subjects=[f"{made.stream}.>"])
            yield made

    return make


def kinds(found: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(each.kind, each.event_id) for each in found]


@pytest.mark.parametrize("is_empty", [True, False], ids=["empty at first", "with a row"])
@pytest.mark.parametrize(
    ("kind", "compare", "good"),
    [
        ("text", "bytes", AS_WRITTEN),
        ("json", "bytes", AS_WRITTEN),
        ("bytea", "bytes", AS_WRITTEN),
        ("jsonb", "bytes", AS_JSONB),
        ("checked_twice", "bytes", AS_JSONB),
        ("text", "json", AS_JSONB),
        ("json", "json", AS_JSONB),
        ("bytea", "json", AS_JSONB),
        ("jsonb", "json", AS_JSONB),
    ],
)
async def test_a_payload_is_compared_as_its_column_s_type_asks_for(
    theirs: Make, kind: str, compare: str, good: bytes, *, is_empty: bool
) -> None:
    async with theirs(kind) as table, await Session.connect(table.dsn, "audit") as session:
        audit = table.audit(session, compare)
        if is_empty:
            await audit.look()
        table.write(AS_WRITTEN, kind)
        table.write(AS_WRITTEN, kind)
        await table.publish(good, OTHER)
        await audit.look()
    assert audit.judge.matched == 2
    assert kinds(table.found) == [("corrupt", "2")]


async def test_a_payload_that_is_not_compared_may_be_anything(theirs: Make) -> None:
    async with theirs("jsonb") as table, await Session.connect(table.dsn, "audit") as session:
        audit = table.audit(session, "no")
        table.write(AS_WRITTEN, "jsonb")
        await table.publish(OTHER)
        await audit.look()
    assert (audit.judge.matched, table.found) == (1, [])


async def test_a_name_that_is_no_number_is_compared_with_no_id(theirs: Make) -> None:
    async with theirs("text") as table, await Session.connect(table.dsn, "audit") as session:
        audit = table.audit(session, "bytes")
        table.write(AS_WRITTEN, "text")
        table.write(AS_WRITTEN, "text")
        with psycopg.connect(table.dsn) as connection:
            connection.execute("delete from theirs where id = 1")
        names = ["\N{SUPERSCRIPT TWO}", "9" * 5000]
        await table.publish(*[AS_WRITTEN] * 4, ids=(1, 2, *names))
        await audit.look()
    assert audit.not_judged == {"messages whose rows may be deleted from the outbox": 1}
    assert kinds(table.found) == [("phantom", name) for name in names]


class Interrupted(OutboxReader):
    """A reader whose session Postgres ends when it is first asked for rows of messages."""

    is_interrupted = False

    async def known(self, event_ids: Sequence[str]) -> set[str]:
        if not self.is_interrupted:
            self.is_interrupted = True
            info = self.session.connection.info
            with psycopg.connect(info.dsn, password=info.password, autocommit=True) as admin:
                admin.execute("select pg_terminate_backend(%s, 10000)", (info.backend_pid,))
        return await super().known(event_ids)


async def test_messages_without_a_row_get_their_verdict_after_an_outage(theirs: Make) -> None:
    async with theirs("text") as table:
        async with await Session.connect(table.dsn, "audit") as session:
            audit = table.audit(session, "bytes", Interrupted)
            table.write(AS_WRITTEN, "text")
            await table.publish(AS_WRITTEN)
            await table.publish(AS_WRITTEN, AS_WRITTEN, ids=(4711, 4712))
            with pytest.raises(StoreOutage):
                await audit.look()
            assert table.found == []
        async with await Session.connect(table.dsn, "audit") as session:
            audit.outbox.session = session
            for _ in range(2):  # each finding once
                await audit.look()
    assert audit.judge.matched == 1
    assert kinds(table.found) == [("phantom", "4711"), ("phantom", "4712")]
