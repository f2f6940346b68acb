"""The nats-server that the doctor's tests share."""

from collections.abc import Iterator

import pytest

from relay import devstack
from tests.doctor.broker import CONFIG
from tests.jetstream.conftest import certificates  # noqa: F401 - a fixture


@pytest.fixture(scope="session")
def accounts() -> Iterator[devstack.NatsServer]:
    """Accounts of several kinds; see ``broker``."""
    with devstack.nats_server(CONFIG) as running:
        yield running
