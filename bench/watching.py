"""What happens while producers and a worker run: looked at once a second, from outside."""

import asyncio
import time
from dataclasses import dataclass, field
from itertools import pairwise

import psycopg

from bench import streams
from bench.processes import Child


@dataclass
class Seen:
    """Samples, one a second.

    Attributes:
        at: seconds since the watch began.
        written: events whose rows were made so far.
        stored: messages in the stream.
    """

    at: list[float] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)

    @property
    def backlog(self) -> list[int]:
        """Written and not stored yet; open transactions included, so at most a few too many."""
        return [max(0, w - s) for w, s in zip(self.written, self.stored, strict=True)]

    @property
    def rates(self) -> list[tuple[float, float]]:
        """(second, messages stored/s) of each interval."""
        samples = list(zip(self.at, self.stored, strict=True))
        return [
            (now, (stored - before) / (now - then))
            for (then, before), (now, stored) in pairwise(samples)
        ]

    @property
    def rate(self) -> float:
        """Messages stored/s over all of it."""
        return (self.stored[-1] - self.stored[0]) / (self.at[-1] - self.at[0])


def watch(dsn: str, sequence: str, url: str, stream: str, producers: Child) -> Seen:
    """Look until the producers end. ``sequence`` numbers the rows, from 1 on."""
    seen, began = Seen(), time.monotonic()
    with psycopg.connect(dsn, autocommit=True) as connection:
        while producers.running:
            row = connection.execute(
                "select coalesce(pg_sequence_last_value(%s::regclass), 0)", (sequence,)
            ).fetchone()
            assert row is not None
            seen.written.append(row[0])
            seen.stored.append(asyncio.run(streams.state(url, stream)).messages)
            seen.at.append(time.monotonic() - began)
            time.sleep(max(0.0, len(seen.at) - (time.monotonic() - began)))
    return seen
