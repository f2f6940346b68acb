"""All seeded bugs."""

from tests.bugs.bug import Bug
from tests.bugs.consumer import BUGS as CONSUMER
from tests.bugs.engine import BUGS as ENGINE
from tests.bugs.jetstream import BUGS as JETSTREAM
from tests.bugs.postgres import BUGS as POSTGRES

BUGS: tuple[Bug, ...] = ENGINE + POSTGRES + JETSTREAM + CONSUMER
