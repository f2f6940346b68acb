"""A relay of the first schema beside one of this release, through `migrate` under load.

R-LOSS, R-ORDER, R-ONCE. The rule that this proves stands in sql/README.md.
"""

import asyncio
import uuid
from pathlib import Path

import psycopg
import pytest

from relay import devstack
from relay.postgres import exports, migrations
from relay.postgres.sqlfiles import names
from tests.postgres.databases import programs, psql
from tests.system import releases
from tests.system.harness import (
    STREAM,
    Load,
    RelayProcess,
    delivered,
    leader,
    until,
    verdict,
)

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

SEVERAL = 100
WITHIN = 30.0


@pytest.fixture(scope="module")
def first_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it was with the first schema."""
    if not releases.is_known(releases.FIRST_SCHEMA):
        commit = releases.FIRST_SCHEMA[:7]
        pytest.skip(f"commit {commit} is not here: a shallow clone, or no clone at all")
    return releases.installed(releases.FIRST_SCHEMA, tmp_path_factory.mktemp("release"))


@pytest.fixture
def dsn(one_postgres: devstack.Postgres, first_release: Path) -> str:
    """A database with the first schema, made by the release of it."""
    found = one_postgres.create_database(f"versions_apart_{uuid.uuid4().hex[:8]}")
    releases.migrate(first_release, found)
    return found


def test_two_releases_side_by_side_lose_repeat_and_reorder_nothing(
    dsn: str, own_nats: devstack.NatsServer, first_release: Path, tmp_path: Path
) -> None:
    relays = list[RelayProcess]()

    def start(name: str, **variables: str) -> RelayProcess:
        log = tmp_path / f"{name}.log"
        relays.append(RelayProcess(dsn, own_nats.url, log, variables=variables))
        return relays[-1]

    def flows_by(relay: RelayProcess) -> None:
        until(lambda: leader(dsn)[1] == relay.process.pid, WITHIN)
        before = delivered(dsn)
        until(lambda: delivered(dsn) > before + SEVERAL, WITHIN)

    old = releases.variables(first_release)
    try:
        with Load(dsn, producers=3) as load:
            first = start("first", **old)
            flows_by(first)
            early = start("early")  # the new release before its schema
            since = ", ".join(name.removeprefix("migrations/") for name in names("migrations")[1:])
            assert early.process.wait(WITHIN) == 3
            assert says(early, f"lacks {since}: run `python -m relay migrate`")

            asyncio.run(migrations.migrate(dsn, "relay"))
            flows_by(first)  # its term goes on
            new = start("new")
            until(lambda: says(new, "standing by"), WITHIN)
            assert first.terminate() == 0
            flows_by(new)

            new.kill()
            back = start("back", **old)
            assert back.process.wait(WITHIN) == 3
            assert says(back, "the schema is newer than this relay: it has migration 0002")
            again = start("again")
            flows_by(again)
            load.stop()
            found = asyncio.run(verdict(load, own_nats.url, STREAM))
        assert found.is_clean, found
        assert again.terminate() == 0
    finally:
        for relay in relays:
            relay.end()


def test_the_files_of_another_tool_take_the_first_schema_to_this_one(
    dsn: str, one_postgres: devstack.Postgres, tmp_path: Path
) -> None:
    exports.write(tmp_path, "relay", "psql")
    for file in sorted(tmp_path.glob("*.sql")):  # each by itself, as Alembic and Django run them
        psql(programs(one_postgres), dsn, "-f", str(file))
    asyncio.run(migrations.check(dsn, "relay"))
    with psycopg.connect(dsn) as connection:
        emitted = connection.execute("select relay.emit('a.b', '1', ttl => '1 min')").fetchone()
    assert emitted is not None


def says(relay: RelayProcess, words: str) -> bool:
    return words in relay.log.read_text(encoding="utf-8")
