"""All seeded bugs."""

from tests.bugs.bug import Bug
from tests.bugs.doctor import BUGS as DOCTOR
from tests.bugs.engine import BUGS as ENGINE
from tests.bugs.jetstream import BUGS as JETSTREAM
from tests.bugs.postgres import BUGS as POSTGRES

BUGS: tuple[Bug, ...] = ENGINE + POSTGRES + JETSTREAM + DOCTOR
