"""``relay inbox``: a consumer's schema and its dead messages, by people."""

import json
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from relay.cli import app

DEAD = """
insert into relay.inbox_consumer (name) values ('billing'), ('mail') on conflict do nothing;
insert into relay.inbox_parked (consumer, message_id, stream, sequence, stored_at, subject, key,
  headers, payload, attempts, last_error, dead_at, last_refused_at)
select c, 'm' || i, 'S', i, now(), 'a.b', 'k', '{}', '', case when i = 1 then 10 else 0 end,
       case when i = 1 then E'no \\x1b[31m' else '' end, case when i = 1 then now() end, now()
  from unnest(array['billing', 'mail']) as c, generate_series(1, 2) as i order by c, i
"""


def ask(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture
def dsn(inbox_dsn: str) -> str:
    ask(inbox_dsn, DEAD)
    return inbox_dsn


def run(dsn: str, *args: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["inbox", *args], env={"RELAY_POSTGRES_DSN": dsn})
    return done.exit_code, done.stdout, done.stderr


def test_list_shows_the_dead_or_all_that_are_parked(dsn: str) -> None:
    code, shown, _ = run(dsn, "list")
    assert (code, shown.count("\n")) == (0, 3)
    assert "dead since" in shown
    assert "\x1b" not in shown
    code, shown, _ = run(dsn, "list", "--parked", "--consumer", "mail", "--json")
    rows = json.loads(shown)
    assert [(row["consumer"], row["message_id"], row["attempts"]) for row in rows] == [
        ("mail", "m1", 10),
        ("mail", "m2", 0),
    ]


def test_retry_and_drop_decide_by_id_or_on_all_and_let_the_next_of_the_key_go(dsn: str) -> None:
    (first,) = ask(
        dsn, "select id from relay.inbox_parked where consumer = 'billing' and dead_at is not null"
    )
    code, said, _ = run(dsn, "retry", str(first[0]), "--by", "anna")
    assert (code, said) == (0, "retried 1 dead message\n")
    state = (
        "select message_id, attempts, dead_at, next_attempt_at is not null from relay.inbox_parked"
    )
    assert ask(dsn, f"{state} where consumer = 'billing' order by id") == [
        ("m1", 0, None, True),
        ("m2", 0, None, False),
    ]
    code, _, said = run(dsn, "drop", "--all", "--consumer", "mail")
    assert code == 2
    assert "nobody is there to be asked: say --yes to drop 1 dead message" in said
    code, said, _ = run(dsn, "drop", "--all", "--consumer", "mail", "--yes", "--json")
    assert code == 0
    assert json.loads(said)["done"] == 1
    assert ask(dsn, f"{state} where consumer = 'mail'") == [("m2", 0, None, True)]
    decided = ask(
        dsn, "select action, consumer, message_id, attempts, decided_by from relay.inbox_decision"
    )
    assert [row[:4] for row in decided] == [
        ("retry", "billing", "m1", 10),
        ("drop", "mail", "m1", 10),
    ]
    assert decided[0][4].endswith(" (anna)")


def test_what_can_t_be_done_is_said(dsn: str, database: str) -> None:
    code, _, said = run(dsn, "retry", "999")
    assert (code, said) == (1, "relay: message 999 is not dead, or is not there\n")
    code, _, said = run(dsn, "drop")
    assert code == 2
    assert "say whom you mean in one way" in said
    code, _, said = run(database, "list")
    assert code == 3
    assert "python -m relay inbox migrate" in said
    code, said, _ = run(database, "migrate")
    assert (code, said) == (0, "applied inbox/migrations/0001_inbox\n")
    code, said, _ = run(database, "migrate", "--check")
    assert (code, said) == (0, 'the inbox in schema "relay" is up to date\n')
