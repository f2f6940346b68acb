"""The examples of plain SQL in other languages do what they say, where their client is."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from relay import devstack
from relay.postgres.sqlfiles import folder
from tests.postgres.databases import programs, psql
from tests.producer.adapters import pg_variables

EXAMPLES = Path(str(folder())) / "examples"
JDBC = Path("/usr/share/java/postgresql.jar")
NPM = ("pg@8", "postgres@3")


@pytest.fixture
def shop(outbox_dsn: str) -> str:
    """The connection string of a database with an order that is to be paid."""
    with psycopg.connect(outbox_dsn, autocommit=True) as connection:
        connection.execute("create table orders (id int primary key, state text)")
        connection.execute("insert into orders values (7, 'placed')")
    return outbox_dsn


def has_what_the_example_writes(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        state = connection.execute("select state from orders").fetchall()
        rows = connection.execute(
            "select subject, key, payload, payload_bytes, headers, idempotency_key"
            " from relay.outbox order by id"
        ).fetchall()
    assert state == [("paid",)]
    assert rows[:2] == [
        ("orders.paid", "order-7", {"order": 7}, None, {"source": "shop"}, None),
        ("orders.invoice", "order-7", None, b"\x00\xff", None, "invoice-7"),
    ]
    assert rows[2:] == [
        ("orders.line", "order-7", {"line": line}, None, None, None) for line in (1, 2, 3)
    ]


def run(command: Sequence[str], dsn: str, **more: str) -> None:
    done = subprocess.run(
        command,
        env=os.environ | pg_variables(dsn) | more,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_psql(shop: str, postgres_server: devstack.Postgres) -> None:
    psql(programs(postgres_server), shop, "-f", str(EXAMPLES / "emit.sql"))
    has_what_the_example_writes(shop)


@pytest.mark.slow
def test_jdbc(shop: str) -> None:
    java = shutil.which("java")
    if java is None or not JDBC.exists():
        pytest.skip("no java, or no JDBC driver: install default-jdk, libpostgresql-jdbc-java")
    run([java, "-cp", str(JDBC), str(EXAMPLES / "Emit.java")], shop)
    has_what_the_example_writes(shop)


@functools.cache
def node_modules() -> Path:
    """A folder with the clients of Node, installed once into the virtual environment."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("no node or npm on the PATH: install nodejs and npm")
    home = Path(sys.prefix) / "relay-tests-node"
    if not home.exists():
        with tempfile.TemporaryDirectory(dir=sys.prefix, ignore_cleanup_errors=True) as folder:
            made = Path(folder) / "made"
            command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(made), *NPM]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=120, check=False
                )
            except subprocess.TimeoutExpired:
                pytest.skip(f"npm could not install {' '.join(NPM)} within 120 s")
            if done.returncode != 0:
                pytest.skip(f"npm could not install {' '.join(NPM)}: {done.stderr.strip()[-200:]}")
            with suppress(OSError):  # another worker was first
                made.rename(home)
    return home / "node_modules"


@pytest.mark.slow
@pytest.mark.parametrize("example", ["node-postgres", "postgres-js"])
def test_node(shop: str, example: str, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(node_modules())
    shutil.copy(EXAMPLES / f"{example}.mjs", tmp_path)
    run([shutil.which("node") or "node", str(tmp_path / f"{example}.mjs")], shop)
    has_what_the_example_writes(shop)
