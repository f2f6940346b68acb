"""A database with dead events, and the commands about them."""

import logging
import os
from collections.abc import Iterator

import psycopg
import pytest
from typer.testing import CliRunner

from relay.cli import app
from tests.cli.dead import Run


@pytest.fixture
def dsn(outbox_dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in [name for name in os.environ if name.startswith("RELAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RELAY_POSTGRES_DSN", outbox_dsn)
    return outbox_dsn


@pytest.fixture
def look(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def relay(dsn: str) -> Iterator[Run]:
    """Run a command in this process, whose logging is put back afterwards."""
    names = ("", "relay", "nats", "psycopg", "psycopg.pool")
    levels = {name: logging.getLogger(name).level for name in names}
    handlers = list(logging.getLogger().handlers)
    yield lambda *args: CliRunner().invoke(app, args)
    logging.getLogger().handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
