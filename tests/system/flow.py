"""Commits at a steady rate, and when each event came out: what shows how long nobody published.

One thread commits numbered events, one transaction after the other; another hears every message on
the wire by a plain NATS subscription, the repeats that the stream drops included.
"""

import asyncio
import itertools
import json
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from typing import Self

import nats
import psycopg
from nats.aio.msg import Msg

from tests.system.harness import until

INSERT = """
    insert into relay.outbox (subject, key, payload)
    select 'orders.placed', 'k' || n, json_build_object('number', %s::bigint + n)
      from generate_series(0, %s::int - 1) as n
"""


class Flow:
    """``with Flow(dsn, nats_url) as flow:`` commits until the end of the block.

    Attributes:
        begun: by number, the wall clock when the event's commit began.
        heard: by number, the wall clock of each message with it.
    """

    def __init__(self, dsn: str, nats_url: str, *, apart: float = 0.005, events: int = 1) -> None:
        """Commit ``events``, each of a key of its own, every ``apart`` s."""
        self.begun: dict[int, float] = {}
        self.heard: dict[int, list[float]] = defaultdict(list)
        self._dsn = dsn
        self._url = nats_url
        self._apart = apart
        self._events = events
        self._stop = threading.Event()
        self._listening = threading.Event()
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._commit, self._listen)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def published_after(self, since: float, within: float) -> float:
        """Wait for an event that was committed after ``since``; how long after it was heard, in s.

        Nobody who had ended by ``since`` can have published it.
        """

        def found() -> list[float]:
            later = itertools.takewhile(
                lambda number: self.begun[number] > since, reversed(list(self.begun))
            )
            return [min(self.heard[number]) - since for number in later if self.heard.get(number)]

        until(lambda: bool(found()), within)
        return min(found())

    def longest_silence(self, since: float) -> float:
        """Return the longest time in s between two messages, from the last one before ``since``."""
        every = sorted(at for times in list(self.heard.values()) for at in times)
        heard = every[max(0, bisect_left(every, since) - 1) :]
        return max((later - at for at, later in itertools.pairwise(heard)), default=float("inf"))

    def repeated_after(self, since: float) -> list[int]:
        """Return the numbers heard after ``since`` that had been heard before it."""
        return [
            number
            for number, times in self.heard.copy().items()
            if min(times) <= since < max(times)
        ]

    def _commit(self) -> None:
        self._listening.wait(10)
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            for first in itertools.count(step=self._events):
                if self._stop.wait(self._apart):
                    return
                now = time.time()
                self.begun |= dict.fromkeys(range(first, first + self._events), now)
                connection.execute(INSERT, (first, self._events))

    def _listen(self) -> None:
        async def take(message: Msg) -> None:
            self.heard[json.loads(message.data)["number"]].append(time.time())

        async def listen() -> None:
            async with await nats.connect(self._url) as client:
                await client.subscribe("orders.>", cb=take)
                await client.flush()
                self._listening.set()
                while not self._stop.is_set():
                    await asyncio.sleep(0.05)

        asyncio.run(listen())
