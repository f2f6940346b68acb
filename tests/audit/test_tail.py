"""``relay tail``: what is shown, from where, and through a server that comes back."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import nats
import pytest

from relay import devstack
from tests import warm
from tests.audit.conftest import Ask
from tests.system.harness import ROOT, STREAM, until

pytestmark = pytest.mark.anyio

HEADERS = {"Nats-Msg-Id": "m1", "Relay-Key": "k", "Relay-Created-At": "2026-01-01T00:00:00Z"}


@pytest.fixture
async def js(own_nats: devstack.NatsServer) -> Any:
    async with await nats.connect(own_nats.url) as client:
        js = client.jetstream()
        await js.add_stream(name=STREAM, subjects=["orders.>"])
        await js.publish("orders.placed", b'{"a": 1}', headers=HEADERS)
        for number in range(2, 11):
            subject = "orders.paid" if number % 2 else "orders.placed"
            await js.publish(subject, str(number).encode(), headers={"Relay-Key": "even"})
        yield js


def seqs(ask: Ask, *args: str) -> list[int]:
    done = ask("tail", "--json", *args)
    assert done.exit_code == 0, done.stderr
    return [json.loads(line)["seq"] for line in done.stdout.splitlines()]


def in_thread(ask: Ask, *args: str) -> list[int]:
    """Run it where no event loop runs."""
    found: list[list[int]] = []
    thread = threading.Thread(target=lambda: found.append(seqs(ask, *args)))
    thread.start()
    thread.join()
    return found[0]


async def test_it_begins_where_it_is_told_and_filters(js: Any, ask: Ask) -> None:
    assert in_thread(ask, "-n", "3", "--count", "3") == [8, 9, 10]
    assert in_thread(ask, "-n", "99", "--count", "2") == [1, 2]
    assert in_thread(ask, "--since", "1h", "--count", "2") == [1, 2]
    assert in_thread(ask, "--since", "2020-01-01", "--count", "1") == [1]
    paid = ["--subject", "orders.paid"]
    assert in_thread(ask, "-n", "2", *paid, "--count", "2") == [7, 9]
    assert in_thread(ask, "-n", "99", "--key", "k", "--count", "1") == [1]


async def test_a_line_of_json_has_all_of_a_message(js: Any, ask: Ask) -> None:
    out: list[str] = []
    args = ("tail", "--json", "-n", "10", "--count", "1")
    thread = threading.Thread(target=lambda: out.append(ask(*args).stdout))
    thread.start()
    thread.join()
    line = json.loads(out[0])
    at = datetime.fromisoformat(line.pop("time"))
    assert abs((datetime.now(UTC) - at).total_seconds()) < 60
    assert line.pop("latency_ms") > 0
    assert line == {
        "stream": STREAM,
        "seq": 1,
        "subject": "orders.placed",
        "key": "k",
        "size": 8,
        "message_id": "m1",
        "headers": HEADERS,
        "payload": '{"a": 1}',
    }


async def test_what_is_no_use_is_refused(js: Any, ask: Ask) -> None:
    for args in (["--since", "soon"], ["--last", "1", "--since", "1h"]):
        assert ask("tail", *args).exit_code == 2
    assert "RELAY_STREAM is not set" in ask("tail", RELAY_STREAM=None).stderr


@pytest.fixture
def tail(own_nats: devstack.NatsServer) -> Iterator["subprocess.Popen[str]"]:
    with warm.Popen(
        [sys.executable, "-m", "relay", "tail", "-n", "2"],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "RELAY_NATS_URL": own_nats.url,
            "RELAY_STREAM": STREAM,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


async def test_it_goes_on_after_the_server_was_killed_and_ends_quietly(
    js: Any, own_nats: devstack.NatsServer, tail: "subprocess.Popen[str]"
) -> None:
    lines: list[str] = []
    assert tail.stdout is not None
    out = tail.stdout
    reading = threading.Thread(target=lambda: lines.extend(out))
    reading.start()
    try:
        until(lambda: len(lines) == 2, 20)
        assert " 9 orders.paid  even  1 B  - ms  9" in lines[0]
        own_nats.kill()
        own_nats.start()
        async with await nats.connect(own_nats.url) as client:
            await client.jetstream().publish("orders.placed", b"\x1b[2J")
        until(lambda: len(lines) == 3, 20)
        assert " 11 orders.placed  -  4 B  - ms  \\x1b[2J" in lines[2]
    finally:
        tail.send_signal(signal.SIGINT)
        reading.join()
    assert tail.wait(10) == 130
    assert tail.stderr is not None
    (said,) = tail.stderr.read().splitlines()
    assert said.startswith("relay: waiting for NATS: ")
