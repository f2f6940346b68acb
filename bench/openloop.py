"""Producers on schedule, whatever the relay does: ``python -m bench.openloop``, in its own process.

Event n is due n / rate seconds after the start; a few connections take turns. Each notes the wall
clock when its commit has returned. A producer that falls behind its schedule goes on without a rest
and the report says the rate it kept.
"""

import json
import sys
import threading
import time
from dataclasses import dataclass

import psycopg

from bench.peers.base import Peer, payload
from bench.processes import output_of, python

WARM_UP = 1.0
"""Seconds at the start that are not counted."""


@dataclass(frozen=True)
class Commits:
    """When each event's commit had returned, by its number; and the rate that was kept.

    ``due`` is the rate of the schedule.
    """

    at: dict[int, float]
    due: int

    @property
    def rate(self) -> float:
        """Commits/s."""
        return (len(self.at) - 1) / (max(self.at.values()) - min(self.at.values()))

    @property
    def counted(self) -> dict[int, float]:
        """Those that were due behind the warm-up."""
        return {number: at for number, at in self.at.items() if number >= WARM_UP * self.due}


def commit(dsn: str, peer: Peer, rate: int, seconds: float) -> Commits:
    """Commit ``rate`` events/s for ``seconds`` and the warm-up, by the peer's statement."""
    rows = f"(select $1::text, {payload('$2::text')})"
    statement = peer.events_from(rows)
    length = seconds + WARM_UP
    said = output_of(python("bench.openloop", dsn, statement, rate, length), length + 120)
    return Commits({int(number): at for number, at in json.loads(said).items()}, rate)


def produce(dsn: str, statement: str, rate: int, seconds: float) -> dict[int, float]:
    """Commit on schedule; when each commit had returned."""
    committed_at: dict[int, float] = {}
    count = max(4, min(16, rate // 250))
    gate = threading.Barrier(count + 1)
    start = 0.0

    def work(first: int) -> None:
        pause = threading.Event()
        with psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.RawCursor) as connection:
            gate.wait()
            gate.wait()
            for number in range(first, int(seconds * rate), count):
                pause.wait(max(0.0, start + number / rate - time.monotonic()))
                values = (f"k{number % 1000}", str(number))
                connection.execute(statement.encode(), values, prepare=True)
                committed_at[number] = time.time()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    gate.wait()
    start = time.monotonic() + 0.05
    gate.wait()
    for thread in threads:
        thread.join()
    return committed_at


if __name__ == "__main__":
    print(json.dumps(produce(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))))
