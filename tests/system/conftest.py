"""What starts relays for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.harness import RelayProcess, Start


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start relays that end with the test, each with a log of its own."""
    started: list[RelayProcess] = []

    def start(dsn: str, nats_url: str, **settings: str) -> RelayProcess:
        log = tmp_path / f"relay-{len(started)}.log"
        started.append(RelayProcess(dsn, nats_url, log, **settings))
        return started[-1]

    yield start
    for relay in started:
        relay.end()
