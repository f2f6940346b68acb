"""What people find out about parked events."""

import itertools
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from relay.core.subjects import matches
from relay.errors import SchemaError, SettingsError
from relay.postgres.operator import DeadEvents, Wanted, regex_of
from tests import warm
from tests.postgres.dead_events import decide, ids, park, row

pytestmark = pytest.mark.anyio


@pytest.fixture
def look(outbox_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(outbox_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def dead_events(outbox_dsn: str) -> AsyncIterator[DeadEvents]:
    async with DeadEvents.open(outbox_dsn, "relay") as found:
        yield found


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
    dead_events: DeadEvents, look: psycopg.Connection
) -> None:
    park(look, 1, key="a", age=3600.0)
    park(look, 2, key="b", subject="orders.paid", error="Maximum 100% exceeded")
    park(look, 3, key="b", subject="stock", code=10060, age=1.0)
    park(look, 4, key="a", dead=False, due=9.0, age=3600.0)
    assert await ids(dead_events) == [1, 2, 3]
    assert await ids(dead_events, parked=True) == [1, 2, 3, 4]
    assert await ids(dead_events, subject="orders.*") == [1, 2]
    assert await ids(dead_events, subject=">") == [1, 2, 3]
    assert await ids(dead_events, key="b") == [2, 3]
    assert await ids(dead_events, error="maximum 100%") == [2]
    assert await ids(dead_events, error="100_") == []
    assert await ids(dead_events, error_regex="max.*[0-9]+%") == [2]
    assert await ids(dead_events, code=10060) == [3]
    assert await ids(dead_events, older_than=1800.0) == [1]
    assert await ids(dead_events, older_than=1800.0, parked=True) == [1, 4]
    assert await ids(dead_events, newer_than=1800.0) == [2, 3]
    assert await ids(dead_events, newer_than=1800.0, older_than=30.0) == [2]
    assert await ids(dead_events, key="b", subject="orders.>", code=10060) == []


async def test_no_more_than_the_limit_is_loaded_and_the_rest_is_counted(
    dead_events: DeadEvents, look: psycopg.Connection
) -> None:
    for id_ in range(1, 8):
        park(look, id_)
    found = await dead_events.find(Wanted(), 3)
    assert ([event.id for event in found.events], found.total) == ([1, 2, 3], 7)


async def test_each_state_says_what_it_waits_for(
    dead_events: DeadEvents, look: psycopg.Connection
) -> None:
    park(look, 1, key="k")
    park(look, 2, key="k", dead=False, due=9.0)
    park(look, 3, key="k", dead=False)
    park(look, 4, key="other")
    park(look, 5, key="other", dead=False)
    park(look, 6, dead=False, due=0.0, held_by="stream X")
    found = await dead_events.find(Wanted(parked=True), 100)
    assert [(each.state, each.waits_for) for each in found.events] == [
        ("dead", None),
        ("retrying", None),
        ("waiting", 2),
        ("dead", None),
        ("waiting", 4),
        ("held", None),
    ]


async def test_an_event_is_shown_by_its_id_or_its_uuid_with_all_that_is_known(
    dead_events: DeadEvents, look: psycopg.Connection
) -> None:
    park(look, 1, key="k")
    look.execute("""update relay.outbox set headers = '{"a": "b"}'""")
    (event_id,) = row(look, "event_id::text", 1) or ()
    (shown,) = await dead_events.show("1")
    assert [shown] == await dead_events.show(str(event_id))
    assert (shown.event.id, shown.event.event_id, shown.event.key) == (1, event_id, "k")
    assert (shown.message_id, shown.headers) == (f"relay-{event_id}", {"a": "b"})
    assert shown.is_json
    assert shown.payload == b'{"n": 1}'
    assert [error["error"] for error in shown.errors] == ["first"]
    assert await dead_events.show("2") == []
    look.execute("update relay.outbox set payload = null, payload_bytes = %s", (b"\xff",))
    (shown,) = await dead_events.show("1")
    assert (shown.payload, shown.is_json) == (b"\xff", False)


async def test_an_event_whose_row_was_deleted_by_hand_is_shown_as_gone_and_never_hidden(
    dead_events: DeadEvents, look: psycopg.Connection
) -> None:
    """R-LOSS: a reference to nothing is said aloud."""
    for id_ in (1, 2, 3):
        park(look, id_, key="k", idempotency_key=f"i-{id_}")
    look.execute("delete from relay.outbox where id = 1")
    # Another event that has come by the id of the second.
    look.execute("update relay.outbox set event_id = gen_random_uuid() where id = 2")
    found = await dead_events.find(Wanted(), 100)
    assert [(each.id, each.is_gone) for each in found.events] == [(1, True), (2, True), (3, False)]
    for id_ in ("1", "2"):
        (shown,) = await dead_events.show(id_)
        assert (shown.message_id, shown.headers, shown.is_json, shown.payload) == (None,) * 4
        assert shown.event.error == "too large"
    (shown,) = await dead_events.show("3")
    assert (shown.message_id, shown.payload) == ("i-3", b'{"n": 1}')
    assert await decide(dead_events, "drop", 1, 2) == [1, 2]


async def test_a_message_id_is_shown_behind_the_prefix(
    outbox_dsn: str, look: psycopg.Connection
) -> None:
    park(look, 1, idempotency_key="mine")
    async with DeadEvents.open(outbox_dsn, "relay", message_id_prefix="eu:") as dead_events:
        (shown,) = await dead_events.show("1")
    assert shown.message_id == "eu:mine"


async def test_an_expression_that_postgres_can_t_read_is_a_fault_of_usage(
    outbox_dsn: str, look: psycopg.Connection
) -> None:
    park(look, 1)
    with pytest.raises(SettingsError, match=r"--error-regex can't be used: .*parenthes"):
        async with DeadEvents.open(outbox_dsn, "relay") as dead_events:
            await dead_events.find(Wanted(error_regex="("), 1)


async def test_an_old_or_missing_schema_is_named_with_its_remedy(
    outbox_dsn: str, look: psycopg.Connection
) -> None:
    with pytest.raises(SchemaError, match="relay migrate"):
        async with DeadEvents.open(outbox_dsn, "nowhere"):
            pass
    look.execute("delete from relay.migration where version > 0")
    with pytest.raises(SchemaError, match=r"lacks 0001.*relay migrate"):
        async with DeadEvents.open(outbox_dsn, "relay"):
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


def login_dsn(look: psycopg.Connection, user: str) -> str:
    return make_conninfo(**(look.info.get_parameters() | {"user": user}))


async def test_the_operator_s_role_is_enough_and_the_monitor_s_is_not(
    look: psycopg.Connection, login: Callable[[str], str]
) -> None:
    for id_ in (1, 2):
        park(look, id_, key="k")
    park(look, 3, key="k", dead=False)
    async with DeadEvents.open(login("operator"), "relay") as dead_events:
        assert await ids(dead_events) == [1, 2]
        assert len(await dead_events.show("1")) == 1
        assert await decide(dead_events, "retry", 1) == [1]
        assert await decide(dead_events, "drop", 2) == [2]
        (decision,) = await dead_events.decisions("2")
    assert decision.decided_by == f"operator_{look.info.dbname} (anna)"
    who = f"operator_{look.info.dbname}"
    with psycopg.connect(login_dsn(look, who), autocommit=True) as forger:
        park(look, 4)
        forger.execute("set role relay_operator")
        forger.execute(
            "select relay.drop_dead(array(select p.event_id from relay.parked as p), now(), %s)",
            ("x) boss (y",),
        )
    last = look.execute("select decided_by from relay.decision order by id desc").fetchone()
    assert last == (f"{who} (x) boss (y)",), "the login comes first"
    with pytest.raises(SchemaError, match='grant the role "relay_operator" to this login'):
        async with DeadEvents.open(login("monitor"), "relay"):
            pass


OUT_OF_RANGE = {
    1: ("infinity", "infinity"),
    2: ("-infinity", "-infinity"),
    3: ("10000-01-01 12:00:00+00", "10000-01-01 12:00:00+00"),
    4: ("294276-12-31 23:59:59+00", "294276-12-31 23:59:59+00"),
    5: ("0044-03-15 00:00:00+00 BC", "0044-03-15 00:00:00+00 BC"),
    6: ("0401-02-28 00:00:00+00 BC", "0401-02-28 00:00:00+00 BC"),
    7: ("2026-01-01 00:00:00+00", "2026-01-01T00:00:00+00:00"),
}


def test_an_instant_that_python_cannot_hold_is_shown_as_text(
    look: psycopg.Connection, outbox_dsn: str
) -> None:
    for id_, (written, _) in OUT_OF_RANGE.items():
        park(look, id_)
        changed = look.execute(
            "update relay.parked set created_at = %s where id = %s"
            " returning created_at at time zone 'UTC' || ''",
            (written, id_),
        ).fetchone()
        assert changed is not None
        assert changed[0] == written.replace("+00", "")

    def relay(*arguments: str) -> str:
        run = [sys.executable, "-m", "relay", "dead", *arguments]
        variables = os.environ | {"RELAY_POSTGRES_DSN": outbox_dsn}
        done = warm.run(run, env=variables)
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = {event["id"]: event["created_at"] for event in json.loads(relay("list", "--json"))}
    assert shown == {id_: text for id_, (_, text) in OUT_OF_RANGE.items()}
    assert len(relay("list").splitlines()) == 1 + len(OUT_OF_RANGE)
    assert "written    10000-01-01 12:00:00+00\n" in relay("show", "3")
    assert json.loads(relay("show", "1", "--json"))["created_at"] == "infinity"
