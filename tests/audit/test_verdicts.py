"""What the audit says of our own outbox, state by state: found, not yet, not judged. R-LOSS"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import nats
import psycopg
import pytest
from nats.js.api import StreamConfig

from relay import devstack
from tests.audit.conftest import Ask
from tests.system.harness import STREAM, alone, emit

SETTLE = "update relay.cursor set base = pg_current_snapshot()"
"""As a relay does that takes for stored what is not."""

DIE = """
insert into relay.parked (event_id, id, key, subject, created_at, last_error, dead_at)
select event_id, id, key, subject, created_at, 'no', %s::timestamptz from relay.outbox where id = %s
"""


class Stream:
    """The stream, in the hands of somebody who is no relay."""

    def __init__(self, url: str, **config: Any) -> None:
        self._url = url
        self._do(lambda js: js.add_stream(StreamConfig(STREAM, subjects=["orders.>"], **config)))

    def publish(self, event_id: str, key: str | None = None, *, number: int = 0, **more: str):
        headers = {"Relay-Event-Id": event_id} | ({"Relay-Key": key} if key else {})
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        payload = json.dumps({"number": number}).encode()
        self._do(lambda js: js.publish("orders.placed", payload, headers=headers))

    def delete(self, seq: int) -> None:
        self._do(lambda js: js.delete_msg(STREAM, seq))

    def purge(self, before: int) -> None:
        self._do(lambda js: js.purge_stream(STREAM, seq=before))

    def consume(self) -> None:
        self._do(lambda js: js.add_consumer(STREAM, durable_name="theirs", ack_policy="explicit"))

    def _do(self, what: Callable[[Any], Any]) -> None:
        async def go() -> None:
            async with await nats.connect(self._url) as client:
                await what(client.jetstream())

        asyncio.run(go())


@pytest.fixture
def stream(own_nats: devstack.NatsServer) -> Stream:
    return Stream(own_nats.url)


class Audited:
    """What one audit said."""

    def __init__(self, ask: Ask, *args: str) -> None:
        done = ask("audit", "--json", "--grace", "0s", *args)
        assert done.stdout, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        self.code = done.exit_code
        self.report = lines.pop()["report"]
        self.found = {
            (each["finding"], each["event_id"], each["sequence"], each["seq"]) for each in lines
        }


def execute(dsn: str, query: str, *values: object) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(query.encode(), values or None)


def test_what_is_wrong_has_its_row_and_its_sequence(
    outbox_dsn: str, stream: Stream, ask: Ask
) -> None:
    ids = [emit(outbox_dsn, "orders.placed", "k", number=n) for n in range(5)]
    for n in (1, 0, 2, 1):
        stream.publish(ids[n], "k", number=n)
    stream.publish(ids[4], "other", number=9)
    stream.publish("nobody", "k")
    execute(outbox_dsn, SETTLE)
    audited = Audited(ask, "--serial-keys")
    assert audited.found == {
        ("reordered", ids[0], 1, 2),
        ("duplicate", ids[1], 2, 4),
        ("corrupt", ids[4], 5, 5),
        ("phantom", "nobody", None, 6),
        ("lost", ids[3], 4, None),
    }
    assert audited.code == 1
    assert audited.report["findings"] == dict.fromkeys(
        ("lost", "duplicates", "phantoms", "reordered", "corrupt"), 1
    )
    shown = ask("audit", "--grace", "0s", "--serial-keys").stdout
    assert f"lost       row 4, no message, event {ids[3]}, key k\n" in shown
    assert f"duplicate  row 2, sequence 4, event {ids[1]}, key k: first at sequence 1\n" in shown


def test_order_is_judged_where_it_is_proven(outbox_dsn: str, stream: Stream, ask: Ask) -> None:
    with psycopg.connect(outbox_dsn) as connection:
        both = [emit(connection, "orders.placed", "a", number=n) for n in range(2)]
    apart = [emit(outbox_dsn, "orders.placed", "b", number=n) for n in range(2)]
    for n in (1, 0):
        stream.publish(both[n], "a", number=n)
        stream.publish(apart[n], "b", number=n)
    audited = Audited(ask)
    assert audited.found == {("reordered", both[0], 1, 3)}
    overlap = "inversions of transactions that may have overlapped"
    assert audited.report["not_judged"] == {overlap: 1}


def test_what_the_relay_still_has_to_do_is_not_lost(
    outbox_dsn: str, stream: Stream, ask: Ask
) -> None:
    for n in range(4):
        emit(outbox_dsn, "orders.placed", number=n)
    execute(outbox_dsn, SETTLE)
    emit(outbox_dsn, "orders.placed")
    execute(outbox_dsn, DIE, None, 1)
    execute(outbox_dsn, DIE, "2026-01-01", 2)
    execute(outbox_dsn, DIE, "2026-01-01", 3)
    alone(outbox_dsn, "select count(*) from relay.drop_dead(array(select event_id from relay.parked"
          " where id = 3), now(), 'somebody')")  # fmt: skip
    audited = Audited(ask)
    assert {(kind, row) for kind, _, row, _ in audited.found} == {("lost", 4)}
    assert audited.report["not_yet"] == {"parked": 1, "dead": 1, "dropped": 1, "pending": 1}


def test_what_is_pruned_on_either_side_is_not_judged(
    outbox_dsn: str, stream: Stream, ask: Ask
) -> None:
    ids = [emit(outbox_dsn, "orders.placed", number=n) for n in range(5)]
    for n in range(4):
        stream.publish(ids[n], number=n)
    emit(outbox_dsn, "orders.placed")
    execute(outbox_dsn, SETTLE)
    execute(outbox_dsn, "insert into relay.settled select now(), base from relay.cursor")
    execute(outbox_dsn, "delete from relay.outbox where id = 1")  # the outbox's retention
    stream.purge(3)  # the stream's limits
    execute(outbox_dsn, "update relay.outbox set created_at = '2026-01-01' where id = 5")
    audited = Audited(ask)
    assert {(kind, row) for kind, _, row, _ in audited.found} == {("lost", 6)}
    assert audited.report["not_judged"] == {"written before the stream's first message": 2}
    assert audited.report["messages"] == {"first": 3, "last": 4}
    stream.publish(ids[0])
    audited = Audited(ask)
    assert {kind for kind, *_ in audited.found} == {"lost"}
    pruned = "messages whose rows may be deleted from the outbox"
    assert audited.report["not_judged"][pruned] == 1


def test_a_message_deleted_by_hand_makes_no_loss(outbox_dsn: str, stream: Stream, ask: Ask) -> None:
    ids = [emit(outbox_dsn, "orders.placed", number=n) for n in range(3)]
    for n in range(3):
        stream.publish(ids[n], number=n)
    stream.delete(2)
    execute(outbox_dsn, SETTLE)
    audited = Audited(ask)
    assert (audited.code, audited.found) == (0, set())
    assert audited.report["not_judged"] == {"perhaps deleted from the stream": 1}


def test_others_messages_and_other_streams_rows_are_counted_and_left_alone(
    outbox_dsn: str, stream: Stream, ask: Ask
) -> None:
    stream.publish("", Relay_Event_Id="", X_Own="1")
    emit(outbox_dsn, "elsewhere.x")
    execute(outbox_dsn, SETTLE)
    audited = Audited(ask, "--subject", "orders.placed")
    assert audited.code == 0
    assert audited.report["not_judged"] == {
        "rows of subjects that this stream does not capture": 1,
        "messages of other publishers": 1,
    }


def test_a_copy_that_a_person_asked_for_is_no_finding(
    outbox_dsn: str, stream: Stream, ask: Ask
) -> None:
    event_id = emit(outbox_dsn, "orders.placed")
    stream.publish(event_id)
    stream.publish(event_id, Relay_Replay="1")
    audited = Audited(ask)
    assert (audited.code, audited.report["replayed"]) == (0, 1)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--table", "public.nowhere"], "nowhere"),
        (["--table", "relay.outbox", "--key", "no_such_column"], "no_such_column"),
        (["--table", "relay.outbox", "--sequence", "subject"], "as it is mapped: "),
        (["--message-id", "somewhere", "--table", "t"], "'somewhere' is no place in a message"),
        (["--compare", "loosely"], "'loosely' is none of bytes, json, no"),
        (["--stream", "NOWHERE"], "there is no stream NOWHERE"),
    ],
)
def test_what_can_t_be_audited_is_an_error_that_names_it(
    outbox_dsn: str, stream: Stream, ask: Ask, args: list[str], said: str
) -> None:
    emit(outbox_dsn, "orders.placed")
    done = ask("audit", *args)
    assert done.exit_code in {2, 3}
    assert said in done.stderr


@pytest.mark.parametrize("retention", ["workqueue", "interest"])
def test_a_stream_that_a_consumer_would_change_is_not_read(
    outbox_dsn: str, own_nats: Any, ask: Ask, retention: str
) -> None:
    stream = Stream(own_nats.url, retention=retention)
    stream.consume()
    stream.publish(emit(outbox_dsn, "orders.placed"))
    for args in (["audit"], ["tail", "-n", "1", "--subject", "orders.>"]):
        done = ask(*args)
        assert done.exit_code == 3
        assert f"{retention}: another consumer would change what it keeps" in done.stderr
    assert f"{retention}: another consumer" in ask("where", "1").stdout


def test_a_stream_whose_messages_are_all_gone_says_nothing_of_what_was_there(
    outbox_dsn: str, stream: Stream, ask: Ask
) -> None:
    stream.publish(emit(outbox_dsn, "orders.placed"))
    execute(outbox_dsn, SETTLE)
    stream.purge(2)
    audited = Audited(ask)
    assert (audited.code, audited.found) == (0, set())
    assert audited.report["not_judged"] == {"written before the stream's first message": 1}
