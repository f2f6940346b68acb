"""``relay audit --follow``: through outages of both sides, for as long as asked."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import nats
import psycopg
import pytest

from relay import devstack
from tests import warm
from tests.audit.seeded import COLUMNS, TABLE
from tests.system.harness import ROOT, until

STREAM = "FOLLOWED"
INSERT = "insert into incumbent (key, body) values ('k', '{}') returning id"


class Followed:
    """The command, and what it has said so far."""

    def __init__(self, dsn: str, url: str) -> None:
        self.lines: list[dict[str, Any]] = []
        self.process = warm.Popen(
            [
                *(sys.executable, "-m", "relay", "audit", "--follow", "--every", "100ms"),
                # of several graces the last counts; in 5 s a row's message is published
                *("--json", "--stream", STREAM, *COLUMNS, "--grace", "5s"),
            ],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "RELAY_POSTGRES_DSN": dsn,
                "RELAY_NATS_URL": url,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines += map(json.loads, self.process.stdout)

    @property
    def found(self) -> list[tuple[str, str]]:
        return [(x["finding"], x["event_id"]) for x in list(self.lines) if "finding" in x]

    @property
    def report(self) -> dict[str, Any]:
        reports = [line["report"] for line in list(self.lines) if "report" in line]
        return reports[-1] if reports else {"matched": 0, "messages": {"last": 0}}

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        self._thread.join(10)
        return self.process.wait(10)


@pytest.fixture
def followed(database: str, own_nats: devstack.NatsServer) -> Iterator[Followed]:
    with psycopg.connect(database) as connection:
        connection.execute(TABLE)
    asyncio.run(publish(own_nats.url, []))
    made = Followed(database, own_nats.url)
    yield made
    if made.process.poll() is None:
        made.process.kill()
    made.end()
    for pipe in (made.process.stdout, made.process.stderr):
        assert pipe is not None
        pipe.close()


async def publish(url: str, ids: list[int]) -> None:
    async with await nats.connect(url) as client:
        js = client.jetstream()
        await js.add_stream(name=STREAM, subjects=["followed.>"])
        for id_ in ids:
            headers = {"X-Id": str(id_), "X-Key": "k"}
            await js.publish("followed.x", b"{}", headers=headers)


@pytest.mark.slow
def test_it_goes_on_through_outages_and_says_each_finding_once(
    followed: Followed, database: str, own_nats: devstack.NatsServer
) -> None:
    with psycopg.connect(database, autocommit=True) as connection:

        def write() -> int:
            row = connection.execute(INSERT).fetchone()
            assert row is not None
            return row[0]

        asyncio.run(publish(own_nats.url, [write()]))
        until(lambda: followed.report["matched"] == 1, 20)
        with psycopg.connect(database) as late:  # its id is passed before it commits
            row = late.execute(INSERT).fetchone()
            asyncio.run(publish(own_nats.url, [write()]))
            until(lambda: followed.report["matched"] == 2, 20)
        assert row is not None
        until(lambda: ("lost", str(row[0])) in followed.found, 20)

        own_nats.kill()
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'relay audit'"
        )
        own_nats.start()
        asyncio.run(publish(own_nats.url, [write(), 4711, row[0] + 1]))
        until(lambda: followed.report["messages"]["last"] == 5, 20)
    assert followed.end() == 1
    assert sorted(followed.found) == [
        ("duplicate", str(row[0] + 1)),
        ("lost", str(row[0])),
        ("phantom", "4711"),
    ]
    assert followed.report["matched"] == 3


def test_a_signal_is_its_end_and_nothing_wrong_is_no_failure(followed: Followed) -> None:
    until(lambda: bool(followed.lines), 20)
    assert followed.end(signal.SIGTERM) == 0


def test_a_stream_that_is_made_anew_ends_it(
    followed: Followed, own_nats: devstack.NatsServer
) -> None:
    async def make_anew() -> None:
        async with await nats.connect(own_nats.url) as client:
            await client.jetstream().delete_stream(STREAM)
            await client.jetstream().add_stream(name=STREAM, subjects=["followed.>"])

    until(lambda: bool(followed.lines), 20)
    asyncio.run(make_anew())
    assert followed.process.wait(20) == 3
    assert followed.process.stderr is not None
    # unless it looked while there was none
    assert re.search("was made anew|there is no stream", followed.process.stderr.read())
