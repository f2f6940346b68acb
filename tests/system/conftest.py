"""What starts relays for the tests of this folder."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.system.harness import RelayProcess, Start

STARTED = pytest.StashKey[list[RelayProcess]]()


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Start relays that end with the test, each with a log of its own."""
    started = request.node.stash.setdefault(STARTED, [])

    def start(dsn: str, nats_url: str, **settings: str) -> RelayProcess:
        log = tmp_path / f"relay-{len(started)}.log"
        started.append(RelayProcess(dsn, nats_url, log, **settings))
        return started[-1]

    yield start
    for relay in started:
        relay.end()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Add what the relays do to a test's failure."""
    try:
        return (yield)
    except BaseException as failure:
        for relay in item.stash.get(STARTED, []):
            relay.add_to(failure)
        raise
