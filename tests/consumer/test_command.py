"""``relay inbox``: a consumer's schema and its dead messages, by people."""

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from typer.testing import CliRunner

from relay.cli import app
from relay.consumer import migrations

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


MANY = """
insert into relay.inbox_parked (consumer, message_id, stream, sequence, stored_at, subject, headers,
  payload, dead_at)
select 'billing', 'm' || i, 'S', i, now(), 'a.b', '{}', '', now() from generate_series(1, %d) as i
"""


def test_all_dead_messages_are_found_however_many_there_are(inbox_dsn: str) -> None:
    ask(inbox_dsn, MANY % 100_001)
    code, said, _ = run(inbox_dsn, "retry", "100001")
    assert (code, said) == (0, "retried 1 dead message\n")
    code, said, _ = run(inbox_dsn, "drop", "--all", "--yes")
    assert (code, said) == (0, "dropped 100000 dead messages\n")
    assert ask(inbox_dsn, "select id from relay.inbox_parked") == [(100_001,)]


def test_a_list_that_is_cut_says_so(inbox_dsn: str) -> None:
    ask(inbox_dsn, MANY % 101)
    code, shown, said = run(inbox_dsn, "list", "--json")
    assert (code, len(json.loads(shown)), said) == (0, 100, "100 of 101 shown: see --limit\n")
    _, shown, said = run(inbox_dsn, "list", "--json", "--limit", "101")
    assert (len(json.loads(shown)), said) == (101, "")


def test_a_decision_about_many_that_fails_half_way_says_what_is_done(
    inbox_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(inbox_dsn, MANY % 5)
    ask(
        inbox_dsn,
        "create function lose() returns trigger language plpgsql as"
        " 'begin perform pg_terminate_backend(pg_backend_pid()); return new; end';"
        " create trigger lose before insert on relay.inbox_decision for each row"
        " when (new.message_id = 'm5') execute function lose()",
    )
    monkeypatch.setattr("relay.cli.inbox.CHUNK", 2)
    code, _, said = run(inbox_dsn, "retry", "--all", "--yes")
    assert code == 1
    assert "retried 4 dead messages, then it failed" in said
    left = "select message_id from relay.inbox_parked where dead_at is not null"
    assert ask(inbox_dsn, left) == [("m5",)]


@pytest.fixture
def login(dsn: str) -> Iterator[str]:
    """A login that has the rights of the guide, and is named in it."""
    name = f"anna_{uuid.uuid4().hex[:8]}"
    guide = (Path(__file__).parents[2] / "relay/consumer/README.md").read_text(encoding="utf-8")
    grants, _ = re.findall(r"```sql\n(.*?)```", guide, re.DOTALL)
    ask(dsn, f"create role {name} login; {grants}".replace(" to billing;", f" to {name};"))
    yield name
    ask(dsn, f"drop owned by {name}; drop role {name}")


def test_a_login_with_the_documented_rights_may_look_and_decide(dsn: str, login: str) -> None:
    as_login = make_conninfo(dsn, user=login)
    assert run(as_login, "list")[0] == 0
    assert run(as_login, "retry", "1")[0] == 0
    assert run(as_login, "drop", "--all", "--yes")[0] == 0


@pytest.mark.parametrize(
    ("right", "words"),
    [
        ("usage on schema relay", "permission denied for schema relay"),
        ("select on relay.inbox_migration", "permission denied for table inbox_migration"),
        ("insert on relay.inbox_decision", "permission denied for table inbox_decision"),
    ],
)
def test_a_right_that_is_missing_is_said_with_an_inbox_s_remedy(
    dsn: str, login: str, right: str, words: str
) -> None:
    ask(dsn, f"revoke {right} from {login}")
    code, _, said = run(make_conninfo(dsn, user=login), "retry", "1")
    remedy = "grant this login what relay/consumer/README.md lists, or run as the owner"
    assert (code, said) == (3, f"relay: {words}: {remedy}\n")


def test_an_inbox_without_its_functions_is_said_with_an_inbox_s_remedy(dsn: str) -> None:
    ask(dsn, "drop function relay.inbox_retry")
    code, _, said = run(dsn, "retry", "1")
    assert code == 3
    assert said.endswith(": run `python -m relay inbox migrate`\n")


def test_a_connection_that_is_lost_is_no_bug(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lose = "select pg_terminate_backend(pg_backend_pid())"
    monkeypatch.setattr(migrations, "_HAS_LEDGER", lose)
    code, _, said = run(dsn, "list")
    assert code == 1
    assert "terminating connection due to administrator command" in said
    assert "bug" not in said


def test_what_can_t_be_done_is_said(dsn: str, database: str) -> None:
    code, _, said = run(dsn, "retry", "999")
    assert (code, said) == (1, "relay: message 999 is not dead, or is not there\n")
    code, _, said = run(dsn, "retry", str(2**63))
    assert code == 2
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
