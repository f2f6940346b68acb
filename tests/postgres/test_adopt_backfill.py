"""What is in an adopted table already: copied once, before what is written meanwhile."""

import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import psycopg
import pytest

from relay.errors import EventRefused, SettingsError, StoreBusy, StoreOutage
from relay.postgres import adoption, patience
from relay.postgres.adoption import Adoption
from relay.postgres.session import Session
from tests.postgres.adopting import DEBEZIUM, NUMBERED, NUMBERED_FIELDS, adopt, events, undo
from tests.postgres.databases import execute

pytestmark = pytest.mark.anyio

KEYS = 20
TABLE = "public.events"
ROW = "insert into public.events (topic, ref, body) values ('a.b', %s, %s)"


def fill(dsn: str, each: int) -> None:
    """Let each key have the rows 1 to ``each``."""
    execute(dsn, NUMBERED)
    execute(
        dsn,
        "insert into public.events (topic, ref, body) select 'a.b', k::text, to_jsonb(n)"
        f" from generate_series(1, {each}) as n, generate_series(1, {KEYS}) as k order by n, k",
    )


async def backfill(dsn: str) -> int:
    return await adopt(dsn, TABLE, NUMBERED_FIELDS, backfill=True)


@contextmanager
def writers(dsn: str, each: int) -> Iterator[Callable[[], int]]:
    """Let three writers go on with the keys, each with its own; give how many rows they wrote."""
    over, wrote, failed = threading.Event(), [0] * 3, list[Exception]()

    def produce(number: int) -> None:
        keys = range(1 + number, KEYS + 1, 3)
        try:
            with psycopg.connect(dsn) as connection:
                for n in itertools.count(each + 1):
                    for key in keys:
                        connection.execute(ROW, (str(key), str(n)))
                        if key % 5 == 0:  # Debezium's habit
                            connection.execute(
                                "delete from public.events where ref = %s", [str(key)]
                            )
                            over.wait(0.001)
                        connection.commit()
                        wrote[number] += 1
                    if over.is_set():
                        return
        except psycopg.Error as error:
            failed.append(error)

    threads = [threading.Thread(target=produce, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield lambda: sum(wrote)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failed == []


def assert_in_order(dsn: str, *, deleted: bool = True) -> int:
    """Each key's rows came in order, each once, none missing; return how many came."""
    came = defaultdict[str, list[int]](list)
    for key, body in events(dsn, "key, payload"):
        came[key].append(body)
    for key, bodies in came.items():
        if deleted and int(key) % 5 == 0:  # what was deleted before the copy did not come
            assert bodies == list(range(bodies[0], bodies[-1] + 1))
        else:
            assert bodies == list(range(1, len(bodies) + 1))
    return sum(map(len, came.values()))


async def test_rows_come_in_order_before_those_that_are_written_meanwhile(
    outbox_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-ORDER, R-LOSS, R-FIRST"""
    monkeypatch.setattr(adoption, "PAGE", 100)
    fill(outbox_dsn, 100)
    with writers(outbox_dsn, 100) as wrote:
        while wrote() < 100:
            await anyio.sleep(0.01)
        await backfill(outbox_dsn)
        before = wrote()
        while wrote() < before + 100:
            await anyio.sleep(0.01)
    assert_in_order(outbox_dsn)
    present = (
        "select ref, body from public.events except select key, payload::jsonb from relay.outbox"
    )
    assert execute(outbox_dsn, present) == []
    assert execute(outbox_dsn, "select to_regclass('relay.' || proname || '_rows') from pg_proc"
                   " where proname like 'adopt%'") == [(None,)]  # fmt: skip


@pytest.mark.parametrize("stop_at", ["copy", "third page", "finish"])
async def test_a_run_that_was_interrupted_goes_on(
    one_dsn: str, monkeypatch: pytest.MonkeyPatch, stop_at: str
) -> None:
    """R-ONCE, R-ORDER: wherever it stops, each row comes once."""
    monkeypatch.setattr(adoption, "PAGE", 100)
    fill(one_dsn, 30)
    await interrupted(monkeypatch, one_dsn, stop_at)
    for key in range(1, KEYS + 1):
        execute(one_dsn, f"insert into events (topic, ref, body) values ('a.b', '{key}', '31')")
    with pytest.raises(SettingsError, match="--backfill goes on, --undo ends it"):
        await adopt(one_dsn, TABLE, NUMBERED_FIELDS)
    await backfill(one_dsn)
    assert assert_in_order(one_dsn, deleted=False) == 31 * KEYS
    execute(one_dsn, "delete from relay.outbox")
    assert await backfill(one_dsn) == 0
    assert events(one_dsn) == []
    execute(one_dsn, "insert into events (topic, ref, body) values ('a.b', '1', '32')")
    assert events(one_dsn) == [("a.b", "1", "32")]


async def test_who_commits_late_is_not_overtaken_by_its_key(
    one_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-ORDER: a lower id among the waiting rows comes up when later ones have moved."""
    monkeypatch.setattr(adoption, "PAGE", 10)
    fill(one_dsn, 2)
    await interrupted(monkeypatch, one_dsn, "copy")
    with psycopg.connect(one_dsn) as late, psycopg.connect(one_dsn) as live:
        late.execute(ROW, ("1", "3"))
        for n in range(3, 10):
            for key in range(2, 6):
                live.execute(ROW, (str(key), str(n)))
        live.commit()
        pages = itertools.count(1)

        def moved(_done: int, _total: int) -> None:
            if next(pages) == 6:
                late.commit()
                live.execute(ROW, ("1", "4"))
                live.commit()

        assert await adopt(one_dsn, TABLE, NUMBERED_FIELDS, backfill=True, moved=moved) == 68
    assert_in_order(one_dsn, deleted=False)


async def test_what_came_since_is_not_copied_as_well(
    one_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-ONCE"""
    fill(one_dsn, 2)
    await interrupted(monkeypatch, one_dsn, "copy")
    execute(one_dsn, "insert into events (topic, ref, body) values ('a.b', '1', '3')")
    await interrupted(monkeypatch, one_dsn, "first page")
    ((rows,),) = execute(one_dsn, "select relname from pg_class where relname like 'adopt%rows'")
    waiting = execute(one_dsn, f"select key, payload::text from relay.{rows} order by id")
    assert len(waiting) == 2 * KEYS + 1
    assert waiting[-1] == ("1", "3")


@pytest.mark.parametrize("stop_at", ["copy", "third page", "finish"])
async def test_undo_loses_nothing_that_waits(
    one_dsn: str, monkeypatch: pytest.MonkeyPatch, stop_at: str
) -> None:
    """R-LOSS"""
    monkeypatch.setattr(adoption, "PAGE", 100)
    fill(one_dsn, 30)
    await interrupted(monkeypatch, one_dsn, stop_at)
    execute(one_dsn, "insert into events (topic, ref, body) values ('a.b', '1', '31')")
    await undo(one_dsn, TABLE)
    came = events(one_dsn)
    assert len(came) == (1 if stop_at == "copy" else 30 * KEYS + 1)
    assert came[-1] == ("a.b", "1", "31")
    left = "select relname from pg_class where relname like 'adopt%'"
    assert execute(one_dsn, left) == []


async def interrupted(monkeypatch: pytest.MonkeyPatch, dsn: str, where: str) -> None:
    """Run a backfill that ends before the step."""
    with stopped(monkeypatch, where), pytest.raises(ConnectionAbortedError):
        await backfill(dsn)


@contextmanager
def stopped(monkeypatch: pytest.MonkeyPatch, where: str) -> Iterator[None]:
    """Let the run end before the step."""
    real_row, real_file, pages = Adoption._row, Adoption._file, itertools.count(1)
    name = {"first page": 1, "third page": 3}

    async def row(self: Adoption, statement: Any) -> Any:
        if "with page as" in statement.as_string() and next(pages) == name.get(where):
            raise ConnectionAbortedError
        return await real_row(self, statement)

    def file(self: Adoption, step: str) -> Any:
        if step == where:
            raise ConnectionAbortedError
        return real_file(self, step)

    def finish(self: Adoption) -> Any:
        raise ConnectionAbortedError

    with monkeypatch.context() as patched:
        patched.setattr(Adoption, "_row", row)
        patched.setattr(Adoption, "_file", file)
        if where == "finish":
            patched.setattr(Adoption, "_finish", finish)
        yield


async def test_an_old_row_that_is_refused_stops_it_before_anything_is_changed(one_dsn: str) -> None:
    fill(one_dsn, 2)
    execute(one_dsn, "update events set topic = 'a b' where id = 7")
    with pytest.raises(EventRefused, match=r"'public\.events:7'"):
        await backfill(one_dsn)
    assert execute(one_dsn, "select count(*) from pg_trigger where tgname = 'relay_adopt'") == [
        (0,)
    ]
    copied = await adopt(
        one_dsn, TABLE, NUMBERED_FIELDS, backfill=True, where="topic not like '% %'"
    )
    assert copied == len(events(one_dsn)) == 2 * KEYS - 1


async def test_a_live_row_that_is_refused_meanwhile_is_refused_where_it_is_written(
    one_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(one_dsn, 2)
    await interrupted(monkeypatch, one_dsn, "finish")
    with pytest.raises(psycopg.errors.CheckViolation, match="a subject has no space"):
        execute(one_dsn, "insert into events (topic, ref, body) values ('a b', '1', '3')")


async def test_it_does_not_hold_producers_up_behind_a_long_transaction(
    one_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-FIRST"""
    monkeypatch.setattr(patience, "PATIENCE", 0.1)
    fill(one_dsn, 2)
    with psycopg.connect(one_dsn) as slow:
        slow.execute(ROW, ("1", "3"))
        with pytest.raises(StoreOutage, match=r"public\.events stayed locked for 0.1 s"):
            await backfill(one_dsn)
        execute(one_dsn, "insert into events (topic, ref, body) values ('a.b', '2', '3')")
    await backfill(one_dsn)
    assert assert_in_order(one_dsn, deleted=False) == 2 * KEYS + 2


async def test_what_a_backfill_needs_is_asked_for(one_dsn: str) -> None:
    execute(one_dsn, DEBEZIUM)
    with pytest.raises(SettingsError, match="--order-by, a column by which"):
        await adopt(one_dsn, backfill=True)
    await adopt(one_dsn)
    with pytest.raises(SettingsError, match="is adopted without a backfill"):
        await adopt(one_dsn, backfill=True, order_by="type")
    async with await Session.connect(one_dsn, "adopt") as session:
        await Adoption.look(session, "relay", "public.outboxevent")
        with pytest.raises(StoreBusy, match="somebody else is adopting"):
            await adopt(one_dsn)
