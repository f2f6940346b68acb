"""``python -m tests.soak.where --questions 1000``: is each answer of ``relay where`` right?

Writers commit, roll back and hold transactions open; some events are too large for the stream, so
they are refused and die, and later ones of their keys wait. A relay delivers, and is killed now and
then. Meanwhile somebody asks where a random event is. An answer is right if it was true at some
instant between question and answer: the writers know when each commit began and ended, and the
stream, read at the end, when each message was stored. One line of JSON; exit code 0 if all were.
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import nats
import psycopg
import typer
from nats.js.api import StreamConfig

from relay import devstack
from relay.audit.stream import read_stream
from relay.audit.where import Answer, copies_of, look_at_outbox, look_at_streams, state_of
from relay.jetstream.options import BusOptions
from relay.jetstream.reading import StreamReader
from relay.postgres import migrations
from relay.postgres.session import Session
from tests.system.harness import STREAM, RelayProcess

SMALL, LARGE = b"x" * 10, b"x" * 5000
LIMIT = 2000
WRITERS = 6
INSERT = (
    "insert into relay.outbox (subject, key, payload_bytes) values ('orders.placed', %s, %s)"
    " returning id, event_id::text"
)


@dataclass
class Life:
    """What the writers know of one event; instants are the wall clock's, s."""

    id: int
    event_id: str
    key: str
    is_large: bool
    written_at: float
    commit_began: float = float("inf")
    commit_ended: float = float("inf")
    rolled_back: bool = False


@dataclass
class Question:
    life: Life
    asked_at: float
    answered_at: float
    answer: Answer


@dataclass
class World:
    dsn: str
    url: str
    chance: random.Random
    lives: list[Life] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    over: bool = False

    async def write(self, number: int) -> None:
        chance = random.Random(f"{number} {self.chance.random()}")
        async with await psycopg.AsyncConnection.connect(self.dsn) as connection:
            while not self.over:
                lives = []
                for _ in range(chance.choice([1, 1, 3])):
                    key, large = f"{number}-{chance.randrange(3)}", chance.random() < 0.03
                    written_at = time.time()
                    values = (key, LARGE if large else SMALL)
                    row = await (await connection.execute(INSERT, values)).fetchone()
                    assert row is not None
                    lives.append(Life(row[0], row[1], key, large, written_at))
                self.lives += lives
                await asyncio.sleep(chance.random() * chance.choice([0.002, 0.002, 0.3]))
                for life in lives:
                    life.commit_began = time.time()
                if chance.random() < 0.1:
                    for life in lives:
                        life.rolled_back = True
                    await connection.rollback()
                else:
                    await connection.commit()
                    for life in lives:
                        life.commit_ended = time.time()
                await asyncio.sleep(chance.random() * 0.05)

    async def ask(self, questions: int) -> None:
        options = BusOptions(urls=(self.url,))
        async with (
            await Session.connect(self.dsn, "where") as session,
            StreamReader.open(options) as reader,
        ):
            while len(self.questions) < questions:
                await asyncio.sleep(self.chance.random() * 0.02)
                if self.lives:
                    recent = self.lives[-self.chance.choice([5, 50, 5000]) :]
                    await self._ask(session, reader, self.chance.choice(recent))

    async def _ask(self, session: Session, reader: StreamReader, life: Life) -> None:
        asked_at = time.time()
        ref = self.chance.choice([str(life.id), life.event_id, f"relay-{life.event_id}"])
        answer = await look_at_outbox(session, "relay", ref)
        answer.streams = [STREAM]
        if answer.rows:
            await look_at_streams(reader, answer, ref)
        self.questions.append(Question(life, asked_at, time.time(), answer))

    async def restart(self, stack: ExitStack, folder: Path) -> None:
        """Have a relay, and kill it now and then."""
        while not self.over:
            relay = RelayProcess(
                self.dsn, self.url, folder / "relay.log", max_attempts="2", max_retry_delay="500ms"
            )
            stack.callback(relay.end)
            for _ in range(60):
                await asyncio.sleep(0.1)
                if self.over:
                    break
            relay.kill()


def wrong(question: Question, stored: dict[str, tuple[int, float]], lives: dict[int, Life]) -> str:
    """Say what was never so between question and answer; "" if all may have been."""
    life, answer = question.life, question.answer
    if not answer.rows:
        was_there = life.commit_ended < question.asked_at
        return "it was committed before the question, and not seen" if was_there else ""
    (row,) = answer.rows
    seq, stored_at = stored.get(life.event_id, (0, float("inf")))
    copies = copies_of(answer, row.event_id)
    state = state_of(row, answer)
    before = lives.get(row.waits_for or 0)
    # Behind one that died it is due, and parked still, until the relay's next look.
    waited = any(
        each.is_large and each.key == life.key and each.id < life.id for each in lives.values()
    )
    reasons = {
        "it is another event": row.event_id != life.event_id,
        "it was seen, and not committed": (
            life.rolled_back or life.commit_began > question.answered_at
        ),
        f"its copies are not at {seq}": [copy.seq for copy in copies] not in ([], [seq]),
        "it was in the stream too early": copies and stored_at > question.answered_at,
        "it was not in the stream any more": not copies and stored_at < question.asked_at,
        "nothing is removed, and nothing is out": (
            state in {"missing", "unknown", "dropped", "held"}
        ),
        "it could be stored at once": (
            not life.is_large and (state == "dead" or (state == "parked" and not waited))
        ),
        "it can't be stored": state in {"stored", "in flight"} and life.is_large,
        f"{row.waits_for} is no earlier event of its key": (
            before is not None and (before.key != life.key or before.id >= life.id)
        ),
    }
    return next((reason for reason, is_so in reasons.items() if is_so), "")


async def run(dsn: str, url: str, folder: Path, *, questions: int, seed: int) -> dict[str, Any]:
    """Ask so many questions under load; the counts, and what was wrong."""
    world = World(dsn, url, random.Random(seed))
    async with await nats.connect(url) as client:
        config = StreamConfig(STREAM, subjects=["orders.>"], max_msg_size=LIMIT)
        await client.jetstream().add_stream(config)
    with ExitStack() as stack:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(world.restart(stack, folder))
            for number in range(WRITERS):
                tasks.create_task(world.write(number))
            await world.ask(questions)
            world.over = True
    stream = await read_stream(url, STREAM)
    stored = {m.event_id: (m.seq, m.stored_at.timestamp()) for m in stream if m.stored_at}
    lives = {life.id: life for life in world.lives}
    states: Counter[str] = Counter()
    found = []
    for each in world.questions:
        rows, answer = each.answer.rows, each.answer
        state = state_of(rows[0], answer) if rows else "not visible"
        states[state] += 1
        if why := wrong(each, stored, lives):
            found.append(f"event {each.life.id} is {state}: {why}")
    return {"questions": len(world.questions), "states": dict(states), "wrong": found}


def main(
    *,
    questions: Annotated[int, typer.Option(min=1)] = 1000,
    seed: Annotated[int | None, typer.Option()] = None,
) -> None:
    """Ask where random events are, and judge every answer."""
    chosen = random.SystemRandom().randrange(10**6) if seed is None else seed
    with (
        devstack.postgres() as postgres,
        devstack.nats_server() as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        asyncio.run(migrations.migrate(postgres.dsn, "relay"))
        made = run(postgres.dsn, server.url, Path(folder), questions=questions, seed=chosen)
        report = asyncio.run(made)
    typer.echo(json.dumps({"seed": chosen, **report}))
    sys.exit(1 if report["wrong"] else 0)


if __name__ == "__main__":
    typer.run(main)
