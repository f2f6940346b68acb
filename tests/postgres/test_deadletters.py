"""What people find out about parked events, and what becomes of them when people decide."""

import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime

import anyio
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from relay.core.subjects import matches
from relay.errors import SchemaError, SettingsError
from relay.postgres import deadletters
from relay.postgres.deadletters import Action, DeadLetters, Wanted, regex_of

pytestmark = pytest.mark.anyio

FAR = datetime(2100, 1, 1, tzinfo=UTC)
PARK = """
insert into relay.parked (
  id, event_id, created_at, subject, key, payload, attempts, last_error, last_code,
  first_refused_at, dead_at, next_attempt_at, held_by, errors
) values (
  %(id)s, gen_random_uuid(), clock_timestamp(), %(subject)s, %(key)s, '{"n": 1}', %(attempts)s,
  %(error)s, %(code)s, clock_timestamp() - make_interval(secs => %(age)s),
  case when %(dead)s then clock_timestamp() - make_interval(secs => %(age)s) end,
  case when %(due)s::float8 is not null then clock_timestamp() + make_interval(secs => %(due)s) end,
  %(held_by)s, '[{"at": "2026-01-01T00:00:00+00:00", "attempt": 1, "code": 1, "error": "first"}]'
)
"""


def park(connection: psycopg.Connection, id_: int, **given: object) -> None:
    """Put one event among the parked; dead unless said otherwise."""
    usual = {"subject": "orders.placed", "key": None, "attempts": 10, "error": "too large"}
    usual |= {"code": 10054, "age": 60.0, "dead": True, "due": None, "held_by": ""}
    connection.execute(PARK, usual | {"id": id_} | given)


@pytest.fixture
def look(outbox_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(outbox_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def letters(outbox_dsn: str) -> AsyncIterator[DeadLetters]:
    async with DeadLetters.open(outbox_dsn, "relay") as found:
        yield found


async def ids(letters: DeadLetters, **wanted: object) -> list[int]:
    found = await letters.find(Wanted(**wanted), 100)  # type: ignore[arg-type]
    assert found.total == len(found.letters)
    return [letter.id for letter in found.letters]


async def decide(letters: DeadLetters, action: Action, *ids: int) -> list[int]:
    """Decide on these, or on all."""
    done: list[int] = []
    await letters.decide(
        action,
        ids or Wanted(),
        by="anna",
        as_of=FAR,
        done=done.extend,
    )
    return done


def row(look: psycopg.Connection, what: str, id_: int) -> tuple[object, ...] | None:
    return look.execute(f"select {what} from relay.parked where id = %s", (id_,)).fetchone()


async def test_a_pattern_means_the_same_on_the_server_as_in_the_core(
    look: psycopg.Connection,
) -> None:
    chance = random.Random(3)
    tokens = ["a", "b", "a+b", "x[1]", "é", "a\\d", "o'k", "a*b", "$x", "(", "^", "a|b", "_-~"]
    subjects = [".".join(chance.choices(tokens, k=chance.randint(1, 4))) for _ in range(300)]
    patterns = [
        ".".join(
            [*chance.choices([*tokens, "*", "*", "*"], k=chance.randint(0, 3)), chance.choice(ends)]
        )
        for _, ends in itertools.product(range(100), [[">"], ["*"], tokens])
    ]
    rows = look.execute(
        "select p, s, s ~ r from unnest(%s::text[], %s::text[]) as pattern (p, r),"
        " unnest(%s::text[]) as subject (s)",
        (patterns, [regex_of(pattern) for pattern in patterns], subjects),
    ).fetchall()
    assert len(rows) == 90_000
    assert [each for each in rows if each[2] != matches(each[0], each[1])] == []
    assert 1_000 < sum(each[2] for each in rows) < 60_000


async def test_each_filter_finds_what_it_names_and_all_given_must_hold(
    letters: DeadLetters, look: psycopg.Connection
) -> None:
    park(look, 1, key="a", age=3600.0)
    park(look, 2, key="b", subject="orders.paid", error="Maximum 100% exceeded")
    park(look, 3, key="b", subject="stock", code=10060, age=1.0)
    park(look, 4, key="a", dead=False, due=9.0, age=3600.0)
    assert await ids(letters) == [1, 2, 3]
    assert await ids(letters, parked=True) == [1, 2, 3, 4]
    assert await ids(letters, subject="orders.*") == [1, 2]
    assert await ids(letters, subject=">") == [1, 2, 3]
    assert await ids(letters, key="b") == [2, 3]
    assert await ids(letters, error="maximum 100%") == [2]
    assert await ids(letters, error="100_") == []
    assert await ids(letters, error_regex="max.*[0-9]+%") == [2]
    assert await ids(letters, code=10060) == [3]
    assert await ids(letters, older_than=1800.0) == [1]
    assert await ids(letters, older_than=1800.0, parked=True) == [1, 4]
    assert await ids(letters, newer_than=1800.0) == [2, 3]
    assert await ids(letters, newer_than=1800.0, older_than=30.0) == [2]
    assert await ids(letters, key="b", subject="orders.>", code=10060) == []


async def test_no_more_than_the_limit_is_loaded_and_the_rest_is_counted(
    letters: DeadLetters, look: psycopg.Connection
) -> None:
    for id_ in range(1, 8):
        park(look, id_)
    found = await letters.find(Wanted(), 3)
    assert ([letter.id for letter in found.letters], found.total) == ([1, 2, 3], 7)


async def test_each_state_says_what_it_waits_for(
    letters: DeadLetters, look: psycopg.Connection
) -> None:
    park(look, 1, key="k")
    park(look, 2, key="k", dead=False, due=9.0)
    park(look, 3, key="k", dead=False)
    park(look, 4, key="other")
    park(look, 5, key="other", dead=False)
    park(look, 6, dead=False, due=0.0, held_by="stream X")
    found = await letters.find(Wanted(parked=True), 100)
    assert [(each.state, each.waits_for) for each in found.letters] == [
        ("dead", None),
        ("retrying", None),
        ("waiting", 2),
        ("dead", None),
        ("waiting", 4),
        ("held", None),
    ]


async def test_an_event_is_shown_by_its_id_or_its_uuid_with_all_that_is_known(
    letters: DeadLetters, look: psycopg.Connection
) -> None:
    park(look, 1, key="k")
    look.execute("""update relay.parked set headers = '{"a": "b"}'""")
    (event_id,) = row(look, "event_id::text", 1) or ()
    (shown,) = await letters.show("1")
    assert [shown] == await letters.show(str(event_id))
    assert (shown.letter.id, shown.letter.event_id, shown.letter.key) == (1, event_id, "k")
    assert (shown.message_id, shown.headers, shown.is_json) == (event_id, {"a": "b"}, True)
    assert shown.payload == b'{"n": 1}'
    assert [error["error"] for error in shown.errors] == ["first"]
    assert await letters.show("2") == []
    look.execute("update relay.parked set payload = null, payload_bytes = %s", (b"\xff",))
    (shown,) = await letters.show("1")
    assert (shown.payload, shown.is_json) == (b"\xff", False)


async def test_a_retry_makes_an_event_due_under_a_new_message_id_and_keeps_its_errors(
    letters: DeadLetters, look: psycopg.Connection
) -> None:
    park(look, 1, key="k")
    assert await decide(letters, "retry", 1) == [1]
    assert row(look, "attempts, retries, dead_at, held_by, jsonb_array_length(errors)", 1) == (
        *(0, 1, None, "", 1),
    )
    assert row(look, "next_attempt_at between now() - interval '10s' and now()", 1) == (True,)
    (shown,) = await letters.show("1")
    assert shown.message_id == f"{shown.letter.event_id}-retry-1"
    assert await decide(letters, "retry", 1) == [], "it is not dead any more"
    look.execute("update relay.parked set dead_at = now(), idempotency_key = 'mine'")
    assert await decide(letters, "retry", 1) == [1]
    (shown,) = await letters.show("1")
    assert shown.message_id == "mine-retry-2"


async def test_every_decision_says_who_when_and_what_and_outlives_the_event(
    letters: DeadLetters, look: psycopg.Connection
) -> None:
    park(look, 1, key="k")
    park(look, 2, key="k")
    assert await decide(letters, "retry", 1) == [1]
    look.execute("update relay.parked set dead_at = now(), attempts = 3, last_error = 'again'")
    assert await decide(letters, "drop") == [1, 2]
    audit = look.execute(
        "select parked_id, action, subject, key, attempts, last_error, decided_by,"
        " decided_at between now() - interval '1min' and now() from relay.decision order by id"
    ).fetchall()
    who = f"{look.info.user} (anna)"
    assert audit == [
        (1, "retry", "orders.placed", "k", 10, "too large", who, True),
        (1, "drop", "orders.placed", "k", 3, "again", who, True),
        (2, "drop", "orders.placed", "k", 3, "again", who, True),
    ]
    told = await letters.decisions("1")
    assert [(each.action, each.decided_by, each.attempts) for each in told] == [
        ("retry", who, 10),
        ("drop", who, 3),
    ]


async def test_neither_decision_touches_what_is_still_tried(
    letters: DeadLetters, look: psycopg.Connection
) -> None:
    park(look, 1, dead=False, due=9.0)
    for action in ("retry", "drop"):
        assert await decide(letters, action) == []
        assert await decide(letters, action, 1) == []
    assert row(look, "attempts, retries", 1) == (10, 0)
    assert look.execute("select count(*) from relay.decision").fetchone() == (0,)


async def test_a_drop_lets_the_next_of_its_key_be_due_unless_another_dead_one_is_before_it(
    letters: DeadLetters, look: psycopg.Connection
) -> None:
    for id_, key in ((1, "one"), (2, "two"), (3, "two")):
        park(look, id_, key=key)
    for id_, key in ((4, "one"), (5, "two"), (6, "one"), (7, "three")):
        park(look, id_, key=key, dead=False)
    assert await decide(letters, "drop", 1, 2) == [1, 2]
    due = "select id from relay.parked where next_attempt_at <= now() order by id"
    assert look.execute(due).fetchall() == [(4,)]
    assert await decide(letters, "drop", 3) == [3]
    assert look.execute(due).fetchall() == [(4,), (5,)]


async def test_of_two_people_who_retry_one_event_at_once_the_first_wins(
    letters: DeadLetters, look: psycopg.Connection, outbox_dsn: str
) -> None:
    park(look, 1)
    park(look, 2)
    second: list[int] = []

    async def retry_too() -> None:
        second.extend(await decide(letters, "retry"))

    with psycopg.connect(outbox_dsn) as first:
        first.execute("update relay.parked set dead_at = null, retries = 1 where id = 1")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(retry_too)
            await until_blocked(look)
            first.commit()
    assert second == [2]
    assert row(look, "retries", 1) == (1,)
    assert look.execute("select parked_id from relay.decision").fetchall() == [(2,)]


@pytest.mark.parametrize("action", ["retry", "drop"])
async def test_what_a_relay_is_changing_is_waited_for_and_then_seen(
    letters: DeadLetters, look: psycopg.Connection, outbox_dsn: str, action: Action
) -> None:
    """The relay takes 1 away, and a person 2: whoever is second has to let 3 be due."""
    park(look, 1, key="k", dead=False, due=0.0)
    park(look, 2, key="k")
    park(look, 3, key="k", dead=False)

    async def drop_too() -> None:
        assert await decide(letters, action, 2) == [2]

    with psycopg.connect(outbox_dsn) as relay:
        relay.execute("delete from relay.parked where id = 1")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drop_too)
            if action == "drop":
                await until_blocked(look)
            relay.commit()
    due = look.execute("select id from relay.parked where next_attempt_at <= clock_timestamp()")
    assert due.fetchall() == [(2 if action == "retry" else 3,)]


async def until_blocked(look: psycopg.Connection) -> None:
    """Wait until some session of this database waits for a lock."""
    with anyio.fail_after(20):
        while look.execute(
            "select count(*) from pg_stat_activity where datname = current_database()"
            " and wait_event_type = 'Lock'"
        ).fetchone() == (0,):
            await anyio.sleep(0.01)


async def test_many_are_decided_on_in_bounded_chunks_in_the_order_of_id(
    letters: DeadLetters, look: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadletters, "CHUNK_ROWS", 3)
    for id_ in range(1, 11):
        park(look, id_, subject=f"orders.{'odd' if id_ % 2 else 'even'}")
    chunks: list[Sequence[int]] = []
    now = look.execute("select clock_timestamp()").fetchone()
    assert now is not None
    park(look, 11, subject="orders.odd", age=-0.0)
    wanted = Wanted(subject="*.odd")
    await letters.decide("drop", wanted, by="anna", as_of=now[0], done=chunks.append)
    assert chunks == [[1, 3], [5], [7, 9]]
    assert await ids(letters) == [2, 4, 6, 8, 10, 11], "11 died after the person had looked"


async def test_a_failure_keeps_what_is_done_and_nothing_of_the_chunk_under_way(
    letters: DeadLetters, look: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadletters, "CHUNK_ROWS", 2)
    for id_ in range(1, 6):
        park(look, id_)
    look.execute(
        "alter table relay.decision add constraint full_disk check (parked_id is distinct from 4)"
    )
    chunks: list[Sequence[int]] = []
    with pytest.raises(psycopg.errors.CheckViolation):
        await letters.decide("retry", Wanted(), by="anna", as_of=FAR, done=chunks.append)
    assert chunks == [[1, 2]]
    assert await ids(letters) == [3, 4, 5]


async def test_an_expression_that_postgres_can_t_read_is_a_fault_of_usage(
    outbox_dsn: str, look: psycopg.Connection
) -> None:
    park(look, 1)
    with pytest.raises(SettingsError, match=r"--error-regex can't be used: .*parenthes"):
        async with DeadLetters.open(outbox_dsn, "relay") as letters:
            await letters.find(Wanted(error_regex="("), 1)


async def test_an_old_or_missing_schema_is_named_with_its_remedy(
    outbox_dsn: str, look: psycopg.Connection
) -> None:
    with pytest.raises(SchemaError, match="relay migrate"):
        async with DeadLetters.open(outbox_dsn, "nowhere"):
            pass
    look.execute("delete from relay.migration where version > 5")
    with pytest.raises(SchemaError, match=r"lacks 0006.*relay migrate"):
        async with DeadLetters.open(outbox_dsn, "relay"):
            pass


@pytest.fixture
def login(look: psycopg.Connection, outbox_dsn: str) -> Iterator[Callable[[str], str]]:
    """Make a login with one of the roles, and its connection string."""
    made: list[str] = []

    def of(role: str) -> str:
        made.append(f"{role}_{look.info.dbname}")
        look.execute(f"create role {made[-1]} login in role relay_{role}")
        return make_conninfo(outbox_dsn, user=made[-1])

    yield of
    for name in made:
        look.execute(f"drop role {name}")


async def test_the_operator_s_role_is_enough_and_the_monitor_s_is_not(
    look: psycopg.Connection, login: Callable[[str], str]
) -> None:
    for id_ in (1, 2):
        park(look, id_, key="k")
    park(look, 3, key="k", dead=False)
    async with DeadLetters.open(login("operator"), "relay") as letters:
        assert await ids(letters) == [1, 2]
        assert len(await letters.show("1")) == 1
        assert await decide(letters, "retry", 1) == [1]
        assert await decide(letters, "drop", 2) == [2]
        (decision,) = await letters.decisions("2")
    assert decision.decided_by == f"operator_{look.info.dbname} (anna)"
    with pytest.raises(SchemaError, match='grant the role "relay_operator" to this login'):
        async with DeadLetters.open(login("monitor"), "relay"):
            pass
