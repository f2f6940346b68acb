"""The inbox's schema: made beside an outbox or alone; and what its functions do for any client."""

import asyncio
import threading

import psycopg
import pytest

from relay import devstack
from relay.consumer import migrations
from relay.errors import SchemaError
from relay.postgres import migrations as outbox
from relay.postgres.sqlfiles import names, text
from tests.cli.process import relay
from tests.postgres.databases import dumped, programs, psql

FILES = [*names("inbox/migrations"), *names("inbox/functions"), *names("inbox/queries")]


@pytest.mark.parametrize("name", FILES)
def test_every_file_begins_with_what_it_is_for(name: str) -> None:
    head = text(name).partition("\n\n")[0].partition("\nselect")[0]
    assert head.startswith("-- ")
    assert "-- takes " in text(name)
    assert "-- locks " in text(name)
    if "queries" not in name:
        lines = [line for line in text(name).splitlines() if line and not line.startswith("--")]
        assert lines[0] == "set search_path = pg_catalog, pg_temp;"


def test_it_is_made_once_looked_at_and_printed_for_psql(
    database: str, one_dsn: str, postgres_server: devstack.Postgres, tmp_path
) -> None:
    with pytest.raises(SchemaError, match="lacks inbox/migrations/0001_inbox: run `python -m"):
        asyncio.run(migrations.migrate(database, "bus", check=True))
    assert asyncio.run(migrations.migrate(database, "bus")) == [
        "applied inbox/migrations/0001_inbox"
    ]
    assert asyncio.run(migrations.migrate(database, "bus")) == []
    assert asyncio.run(migrations.migrate(database, "bus", check=True)) == []
    printed = relay("inbox", "migrate", "--print", "--inbox-schema", "bus")
    assert printed.returncode == 0
    other = postgres_server.create_database("by_psql")
    try:
        program, file = programs(postgres_server), tmp_path / "inbox.sql"
        file.write_text(printed.stdout)
        psql(program, other, "-f", str(file))
        assert dumped(program, other).replace("by_psql", "") == dumped(program, database)
    finally:
        postgres_server.drop_database("by_psql")
    # beside an outbox, in either order
    asyncio.run(migrations.migrate(one_dsn, "relay"))
    asyncio.run(outbox.check(one_dsn, "relay"))
    assert asyncio.run(outbox.migrate(one_dsn, "relay")) == []
    asyncio.run(migrations.migrate(one_dsn, "relay", check=True))


def test_a_newer_or_an_edited_schema_is_refused(inbox_dsn: str) -> None:
    with psycopg.connect(inbox_dsn, autocommit=True) as connection:
        connection.execute("update relay.inbox_migration set checksum = 'x'")
        with pytest.raises(SchemaError, match="not the one that was applied"):
            asyncio.run(migrations.migrate(inbox_dsn, "relay"))
        connection.execute("insert into relay.inbox_migration values (99, 'later', 'x')")
        with pytest.raises(SchemaError, match="newer than this release"):
            asyncio.run(migrations.migrate(inbox_dsn, "relay"))


def test_once_is_true_in_the_one_transaction_that_commits(inbox_dsn: str) -> None:  # R-ONCE
    once = "select relay.once('mail', 'm1')"
    with psycopg.connect(inbox_dsn) as first, psycopg.connect(inbox_dsn) as second:
        assert first.execute(once).fetchone() == (True,)
        first.rollback()
        assert first.execute(once).fetchone() == (True,)
        assert first.execute(once).fetchone() == (False,)
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(second.execute(once).fetchone()))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()  # it has to learn how the first one ends
        first.commit()
        waiting.join(5)
        assert answers == [(False,)]
        assert second.execute("select relay.once('other', 'm1')").fetchone() == (True,)


def test_prune_forgets_one_consumer_s_old_rows_but_none_that_is_parked(inbox_dsn: str) -> None:
    with psycopg.connect(inbox_dsn, autocommit=True) as connection:
        connection.execute(
            "insert into relay.inbox select c, 'm' || i, now() - i * interval '1 min'"
            " from generate_series(1, 100) as i, unnest(array['a', 'b']) as c"
        )
        connection.execute(
            "insert into relay.inbox_parked (consumer, message_id, stream, sequence, stored_at,"
            " subject, headers, payload) values ('a', 'm100', 'S', 1, now(), 's', '{}', '')"
        )
        prune = "select relay.inbox_prune('a', interval '50.5 min', 30)"
        assert connection.execute(prune).fetchone() == (30,)
        assert connection.execute(prune).fetchone() == (19,)
        assert connection.execute(prune).fetchone() == (0,)
        left = "select consumer, count(*) from relay.inbox group by 1 order by 1"
        assert connection.execute(left).fetchall() == [("a", 51), ("b", 100)]
