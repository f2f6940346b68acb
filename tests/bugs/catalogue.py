"""All seeded bugs."""

from tests.bugs.bug import Bug
from tests.bugs.engine import BUGS as ENGINE
from tests.bugs.jetstream import BUGS as JETSTREAM
from tests.bugs.postgres import BUGS as POSTGRES
from tests.bugs.producer import BUGS as PRODUCER

BUGS: tuple[Bug, ...] = ENGINE + POSTGRES + JETSTREAM + PRODUCER
