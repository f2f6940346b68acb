"""One side examined in this process, and what is to be found there."""

import re
from dataclasses import dataclass, field

from relay.doctor import SIDES, Finding, State
from relay.doctor.outbox import Outbox
from relay.doctor.report import run_checks
from relay.doctor.streams import Publishing
from relay.settings import Settings

OK, WARNING, FAULT, SKIPPED = State.OK, State.WARNING, State.FAULT, State.SKIPPED


@dataclass(frozen=True)
class Case:
    """A misconfiguration, and the finding that names it."""

    name: str
    check: str
    state: State
    seen: str
    remedy: str
    damage: str = ""
    dsn: dict[str, str] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)
    user: str = "doctor"

    def __str__(self) -> str:
        return self.name


async def examine_postgres(**settings: object) -> list[Finding]:
    found: list[Finding] = []

    async def emit(finding: Finding) -> None:
        found.append(finding)

    database = Outbox(Settings(**settings))
    try:
        await run_checks("postgres", SIDES["postgres"], database, emit)
    finally:
        database.close()
    return found


async def examine_nats(
    *, subjects: list[str] | None = None, try_publish: bool = False, **settings: object
) -> list[Finding]:
    """With ``subjects`` as those of the newest events."""
    found: list[Finding] = []

    async def emit(finding: Finding) -> None:
        found.append(finding)

    database = Outbox(Settings())
    database.newest_subjects = subjects
    database.looked.set()
    broker = Publishing(Settings(**settings), database, try_publish=try_publish)
    try:
        await run_checks("nats", SIDES["nats"], broker, emit)
    finally:
        broker.close()
    return found


def shown(found: list[Finding]) -> str:
    return "\n".join(
        f"{each.state:8} {each.check:13} {each.seen} → {each.remedy}" for each in found
    )


def expect(found: list[Finding], check: str, state: State, seen: str, remedy: str) -> None:
    """The check says so, and one cause makes one fault."""
    hits = [each for each in found if (each.check, each.state) == (check, state)]
    assert any(re.search(seen, each.seen) and re.search(remedy, each.remedy) for each in hits), (
        shown(found)
    )
    faults = {each.check for each in found if each.state is FAULT}
    assert faults == ({check} if state is FAULT else set()), shown(found)


def states(found: list[Finding], *wanted: State) -> dict[str, State]:
    return {each.check: each.state for each in found if each.state in wanted}
