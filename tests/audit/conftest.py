"""A relay's database and server, and the commands about them, in this process."""

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from relay import devstack
from relay.cli import app
from tests.system.harness import STREAM

Ask = Callable[..., Result]
Where = Callable[..., dict[str, Any]]


@pytest.fixture
def environment(
    outbox_dsn: str, own_nats: devstack.NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("RELAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RELAY_POSTGRES_DSN", outbox_dsn)
    monkeypatch.setenv("RELAY_NATS_URL", own_nats.url)
    monkeypatch.setenv("RELAY_STREAM", STREAM)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def ask(environment: None, own_logging: None) -> Ask:
    """Run a command; a variable overrides the environment, None takes it away."""
    return lambda *args, **env: CliRunner().invoke(app, args, env=env)


@pytest.fixture
def where(ask: Ask) -> Where:
    """Ask where an event is; the JSON."""

    def run(ref: object, *args: str, **env: str | None) -> dict[str, Any]:
        done = ask("where", str(ref), "--json", *args, **env)
        assert done.stdout, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run
