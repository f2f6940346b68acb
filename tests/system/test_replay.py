"""`relay replay` on real servers: with live traffic, interrupted, refused, and under a takeover."""
# R-ORDER, R-ONCE, R-TERM

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import nats
import psycopg
import pytest
from nats.js.api import AckPolicy, ConsumerConfig

from relay import devstack
from tests import warm
from tests.system import streams
from tests.system.harness import STREAM, Start, delivered, until

pytestmark = pytest.mark.timeout(120)

FILL = """
insert into relay.outbox (subject, key, payload)
select 'orders.placed', 'k' || n %% %s::int, json_build_object('number', n)
  from generate_series(%s::int, %s::int) as n order by n
"""


class Message(NamedTuple):
    key: str
    number: int
    replay: str | None
    message_id: str


def fill(dsn: str, first: int, last: int, keys: int) -> None:
    with psycopg.connect(dsn) as producer:
        producer.execute(FILL, (keys, first, last))


def read(url: str) -> list[Message]:
    """Everything that the stream holds, in its order."""

    async def fetch() -> list[Message]:
        async with await nats.connect(url) as client:
            context = client.jetstream()
            left = (await context.stream_info(STREAM)).state.messages
            config = ConsumerConfig(ack_policy=AckPolicy.NONE, mem_storage=True)
            consumer = await context.pull_subscribe("", stream=STREAM, config=config)
            found: list[Message] = []
            while len(found) < left:
                for each in await consumer.fetch(min(1000, left - len(found)), timeout=10):
                    headers = each.headers or {}
                    found.append(
                        Message(
                            headers["Relay-Key"],
                            json.loads(each.data)["number"],
                            headers.get("Relay-Replay"),
                            headers["Nats-Msg-Id"],
                        )
                    )
            return found

    return asyncio.run(fetch())


def command(dsn: str, url: str, *args: str) -> subprocess.Popen[str]:
    return warm.Popen(
        [sys.executable, "-m", "relay", *args],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "RELAY_POSTGRES_DSN": dsn,
            "RELAY_NATS_URL": url,
            "RELAY_STREAM": STREAM,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def relay(dsn: str, url: str, *args: str) -> tuple[int, str, str]:
    """Run a command to its end: exit code, standard output and error."""
    with command(dsn, url, *args) as process:
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


def marked(dsn: str) -> int:
    with psycopg.connect(dsn) as look:
        row = look.execute("select coalesce(sum(marked), 0) from relay.replay").fetchone()
    assert row is not None
    return int(row[0])


def quiet(dsn: str) -> bool:
    with psycopg.connect(dsn) as look:
        return look.execute(
            "select (select count(*) from relay.parked) + (select count(*) from relay.pending)"
        ).fetchone() == (0,)


@contextmanager
def live(dsn: str, first: int, keys: int) -> Iterator[list[int]]:
    """Commit events one by one meanwhile; their numbers."""
    numbers: list[int] = []
    stop = threading.Event()

    def produce() -> None:
        with psycopg.connect(dsn, autocommit=True) as producer:
            for number in itertools.count(first):
                if stop.wait(0.002):
                    return
                producer.execute(FILL, (keys, number, number))
                numbers.append(number)

    thread = threading.Thread(target=produce)
    thread.start()
    try:
        yield numbers
    finally:
        stop.set()
        thread.join()


def assert_in_order(messages: list[Message]) -> None:
    """From the first replayed message of a key on, what follows of the key ascends."""
    by_key = defaultdict[str, list[Message]](list)
    for message in messages:
        by_key[message.key].append(message)
    for key, of_key in by_key.items():
        first = next((place for place, each in enumerate(of_key) if each.replay), len(of_key))
        for part in (of_key[:first], of_key[first:]):
            numbers = [each.number for each in part]
            assert numbers == sorted(numbers), key


def replayed(messages: list[Message]) -> list[int]:
    return sorted(message.number for message in messages if message.replay)


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize("keys", [1, 3000])
def test_a_key_s_live_events_come_behind_its_replayed_ones_and_nothing_is_lost_or_doubled(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start, keys: int
) -> None:
    url = own_nats.url
    start(one_dsn, url)
    fill(one_dsn, 1, 5000, keys)
    until(lambda: delivered(one_dsn) == 5000, 30)
    with live(one_dsn, 5001, keys) as numbers:
        until(lambda: len(numbers) > 50, 20)
        code, out, err = relay(one_dsn, url, "replay", "--ids", "-5000", "--yes", "--json")
        so_far = len(numbers)
        until(lambda: len(numbers) > so_far + 50, 20)
    assert code == 0, err
    report = json.loads(out)
    assert (report["published"], report["refused"], report["interrupted"]) == (5000, 0, False)
    until(lambda: quiet(one_dsn), 30)
    messages = read(url)
    assert replayed(messages) == list(range(1, 5001))
    assert sorted(m.number for m in messages if not m.replay) == [*range(1, 5001), *numbers]
    assert len({message.message_id for message in messages}) == len(messages)
    assert_in_order(messages)


@SLOW
@pytest.mark.parametrize("ended", ["SIGINT", "SIGKILL"])
def test_an_interrupted_replay_is_gone_on_with_and_no_event_comes_twice(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start, ended: str
) -> None:
    url = own_nats.url
    start(one_dsn, url)
    fill(one_dsn, 1, 600, 5)
    until(lambda: delivered(one_dsn) == 600, 30)
    with command(one_dsn, url, "replay", "--all", "--yes", "--rate", "200") as process:
        until(lambda: marked(one_dsn) >= 100, 20)
        process.send_signal(signal.Signals[ended])
        out, err = process.communicate(timeout=20)
    if ended != "SIGKILL":
        assert process.returncode == 130, err
        assert "replay 1: " in out
        assert "relay replay --continue 1" in err
    assert marked(one_dsn) < 600
    with live(one_dsn, 601, 5) as numbers:
        code, out, err = relay(one_dsn, url, "replay", "--continue", "1", "--json")
        assert code == 0, err
    until(lambda: quiet(one_dsn), 40)
    messages = read(url)
    assert replayed(messages) == list(range(1, 601))
    assert len(messages) == 1200 + len(numbers)


@SLOW
def test_with_the_same_ids_it_is_refused_inside_the_window_and_stored_beyond_it(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start
) -> None:
    url = own_nats.url
    streams.make(url, STREAM, "orders.>", duplicate_window=6_000_000_000)
    start(one_dsn, url, retention="60s")
    fill(one_dsn, 1, 10, 2)
    until(lambda: delivered(one_dsn) == 10, 20)
    same = ("replay", "--all", "--same-id", "--yes")
    code, _, err = relay(one_dsn, url, *same)
    assert code == 1
    assert "10 of 10 events may have been stored within the stream's duplicate window" in err
    assert "Leave out --same-id" in err
    assert len(read(url)) == 10
    until(lambda: relay(one_dsn, url, *same)[0] == 0, 40)
    messages = read(url)
    assert len(messages) == 20
    assert len({message.message_id for message in messages}) == 10
    assert {message.replay for message in messages[10:]} == {"1"}


def test_a_replayed_event_that_is_refused_is_named_and_dead_and_stops_nobody(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start
) -> None:
    # R-FATE
    url = own_nats.url
    start(one_dsn, url)
    fill(one_dsn, 1, 2, 1)
    with psycopg.connect(one_dsn) as producer:
        producer.execute(
            "insert into relay.outbox (subject, key, payload)"
            " values ('orders.placed', 'k0', json_build_object('number', 3, 'x', repeat('x', 999)))"
        )
    fill(one_dsn, 4, 4, 1)
    until(lambda: delivered(one_dsn) == 4, 20)

    streams.change(url, STREAM, max_msg_size=600)
    code, out, err = relay(one_dsn, url, "replay", "--all", "--yes", "--json")
    assert code == 1
    assert (json.loads(out)["published"], json.loads(out)["refused"]) == (3, 1)
    assert "event 3 was refused, and is dead: " in err
    fill(one_dsn, 5, 5, 1)
    until(lambda: delivered(one_dsn) == 4, 20)
    messages = read(url)
    assert [message.number for message in messages] == [1, 2, 3, 4, 1, 2, 4, 5]
    _, out, _ = relay(one_dsn, url, "dead", "list", "--json")
    assert [each["id"] for each in json.loads(out)] == [3]


@SLOW
def test_a_leader_killed_in_mid_replay_is_followed_by_one_that_repeats_what_the_window_drops(
    one_dsn: str, own_nats: devstack.NatsServer, start: Start
) -> None:
    url = own_nats.url
    first = start(one_dsn, url)
    fill(one_dsn, 1, 4000, 9)
    until(lambda: delivered(one_dsn) == 4000, 30)
    start(one_dsn, url)
    with live(one_dsn, 4001, 9) as numbers:
        with command(one_dsn, url, "replay", "--all", "--yes", "--json", "--rate", "2500") as asked:
            until(lambda: marked(one_dsn) > 1000, 20)
            first.kill()
            out, err = asked.communicate(timeout=60)
        assert asked.returncode == 0, err
        assert json.loads(out)["published"] == json.loads(out)["events"]
    until(lambda: quiet(one_dsn), 30)
    messages = read(url)
    assert replayed(messages)[:4000] == list(range(1, 4001))
    assert len(set(replayed(messages))) == len(replayed(messages))
    assert sorted(m.number for m in messages if not m.replay) == [*range(1, 4001), *numbers]
    assert_in_order(messages)


@SLOW
def test_a_replay_rings_no_alarm(one_dsn: str, own_nats: devstack.NatsServer, start: Start) -> None:
    url = own_nats.url
    start(one_dsn, url)
    fill(one_dsn, 1, 1000, 50)
    until(lambda: delivered(one_dsn) == 1000, 20)
    with psycopg.connect(one_dsn) as owner:
        owner.execute("update relay.outbox set created_at = now() - interval '10 min'")
    figures = []
    with command(one_dsn, url, "replay", "--all", "--yes", "--rate", "100") as asked:
        while asked.poll() is None:
            _, out, _ = relay(one_dsn, url, "status", "--json")
            report = json.loads(out)
            figures.append([report[name] for name in ("parked", "dead", "circuit_breaker")])
            time.sleep(0.1)
        asked.communicate()
    assert len(figures) >= 3
    assert {tuple(each) for each in figures} == {(0, 0, "closed")}
