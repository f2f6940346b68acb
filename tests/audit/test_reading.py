"""Reading a stream: each message once and in order, whatever becomes of the connection. R-BOUND"""

import nats
import pytest

from relay import devstack
from relay.errors import BusOutage, StreamError
from relay.jetstream.deliveries import Consumer, ConsumerLostError
from relay.jetstream.options import BusOptions
from relay.jetstream.parser import Message, Parser
from relay.jetstream.reading import Start, StreamReader

pytestmark = pytest.mark.anyio

MANY = 10_000


@pytest.fixture
async def filled(own_nats: devstack.NatsServer) -> str:
    async with await nats.connect(own_nats.url) as client:
        js = client.jetstream()
        await js.add_stream(name="READ", subjects=["read.>"])
        for n in range(MANY):
            await js.publish_async(f"read.{n % 3}", b"x" * (n % 500), headers={"N": str(n)})
        await js.publish_async_completed()
    return own_nats.url


async def test_a_lost_connection_costs_no_message_and_repeats_none(filled: str) -> None:
    seqs: list[int] = []
    cuts = 3
    async with StreamReader.open(BusOptions(urls=(filled,))) as reader:
        async for batch in reader.messages("READ", Start(), up_to=MANY):
            seqs += [message.seq for message in batch]
            if cuts:
                cuts -= 1
                reader._connection.drop("cut")
    assert seqs == list(range(1, MANY + 1))


async def test_subjects_a_beginning_and_an_end_are_kept(filled: str) -> None:
    async with StreamReader.open(BusOptions(urls=(filled,))) as reader:
        found = [
            message
            async for batch in reader.messages(
                "READ", Start(100), up_to=200, subjects=["read.1"], headers_only=True
            )
            for message in batch
        ]
        assert await reader.count("READ", Start(100), ["read.1"]) == (MANY - 98) // 3
    assert [message.seq for message in found] == list(range(101, 201, 3))
    assert {message.payload for message in found} == {b""}
    assert found[0].headers.startswith(b"NATS/1.0\r\nN: 100\r\n")


async def test_a_consumer_that_is_deleted_is_made_again(filled: str) -> None:
    seqs: list[int] = []
    async with (
        StreamReader.open(BusOptions(urls=(filled,))) as reader,
        await nats.connect(filled) as client,
    ):
        js = client.jetstream()
        async for batch in reader.messages("READ", Start()):
            seqs += [message.seq for message in batch]
            if len(seqs) == MANY:
                for each in await js.consumers_info("READ"):
                    await js.delete_consumer("READ", each.name)
                await js.publish("read.0", b"one more")
            if len(seqs) > MANY:
                break
    assert seqs == list(range(1, MANY + 2))


async def test_no_consumer_is_left(filled: str) -> None:
    async with StreamReader.open(BusOptions(urls=(filled,))) as reader:
        async for _ in reader.messages("READ", Start(), up_to=10):
            pass
    async with await nats.connect(filled) as client:
        assert await client.jetstream().consumers_info("READ") == []


async def test_an_outage_that_lasts_is_an_error(filled: str, own_nats: devstack.NatsServer) -> None:
    async with StreamReader.open(BusOptions(urls=(filled,)), patience=0.1) as reader:
        batches = reader.messages("READ", Start())
        await anext(batches)
        own_nats.stop()
        with pytest.raises(BusOutage):
            [batch async for batch in batches]


@pytest.mark.parametrize("denied", ["CONSUMER.>", "CONSUMER.MSG.NEXT.>"])
async def test_a_login_that_may_not_read_is_named(denied: str) -> None:
    with devstack.nats_server(
        "authorization { users = [{ user: u, password: p, permissions: "
        f'{{ publish: {{ deny: ["$JS.API.{denied}"] }} }} }}, {{ user: a, password: a }}] }}'
    ) as server:
        admin = server.url.replace("nats://", "nats://a:a@")
        async with await nats.connect(admin) as client:
            await client.jetstream().add_stream(name="READ", subjects=["read.>"])
            await client.jetstream().publish("read.x", b"")
        options = BusOptions(urls=(server.url,), user="u", password="p")
        async with StreamReader.open(options) as reader:
            with pytest.raises(StreamError, match="can't be read by this login"):
                await anext(reader.messages("READ", Start()))


async def test_a_missing_delivery_ends_the_consumer() -> None:
    consumer = Consumer(None, "ask", pending=9, reply="r")
    consumer._open = 1 << 30  # it asks for nothing
    one = Message(1, 0, b"s", b"", b"")
    consumer.take([one], 1, 1, 8)
    consumer.take([one], 3, 3, 6)
    batches = consumer.batches(9)
    assert await anext(batches) == [one]
    with pytest.raises(ConsumerLostError):
        await anext(batches)


async def test_what_comes_while_a_batch_is_at_work_is_handed_on_too() -> None:
    consumer = Consumer(None, "ask", pending=2, reply="r")
    consumer._open = 1 << 30
    messages = [Message(seq, 0, b"s", b"", b"") for seq in (1, 2)]
    consumer.take(messages[:1], 1, 1, 1)
    batches = consumer.batches(9)
    assert await anext(batches) == messages[:1]
    consumer.take(messages[1:], 2, 2, 0)
    assert [batch async for batch in batches] == [messages[1:]]


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
async def test_deliveries_may_be_cut_anywhere(size: int) -> None:
    other: list[tuple[bytes, bytes, bytes | None]] = []
    control: list[bytes] = []

    async def take_control(operation: bytes, rest: bytes) -> None:
        control.append(operation)

    parser = Parser(lambda *answer: other.append(answer), take_control)
    consumer = Consumer(None, "ask", pending=9)
    parser.deliver_to(consumer.take, "c-1")
    head = b"NATS/1.0\r\nA: b\r\n\r\n"
    sent = b"PING\r\nMSG inbox.t 1 2\r\nok\r\n"
    for n in range(1, 40):
        reply = b"$JS.ACK.dom.acc.S.c-1.1.%d.%d.170%d.5" % (n, n, n)
        if n % 2:
            sent += b"HMSG s.x 1 %b %d %d\r\n%bpay\r\n" % (reply, len(head), len(head) + 3, head)
        else:
            sent += b"MSG s.x 1 $JS.ACK.S.c-1.1.%d.%d.170%d.5 3\r\npay\r\n" % (n, n, n)
    for place in range(0, len(sent), size):
        await parser.parse(sent[place : place + size])
    assert [message.seq for message in consumer._came] == list(range(1, 40))
    assert consumer._came[0] == Message(
        1, 1701, b"s.x", head, b"pay", b"$JS.ACK.dom.acc.S.c-1.1.1.1.1701.5"
    )
    assert consumer._came[1] == Message(2, 1702, b"s.x", b"", b"pay", b"$JS.ACK.S.c-1.1.2.2.1702.5")
    assert (other, control) == ([(b"inbox.t", b"ok", None)], [b"PING"])
