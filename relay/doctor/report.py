"""A check, what it finds, and how the checks of one side are run: in order, each with a deadline.

    ok        as it should be
    warning   works, at a risk that is named
    fault     the relay can't deliver so, or not all of it
    skipped   can't be told: a check that it builds on has failed, or a right is missing

One cause makes one fault. A check whose basis is a fault, or was skipped itself, is skipped and
names the check at the root. A server that stops answering is a fault of the check that waited for
it, and all later checks of that side are skipped: a frozen server costs one deadline. Every wait
has one (R-BOUND): each check its own, and all checks of a side ``BUDGET`` s.
"""

import enum
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeVar

import anyio
import psycopg

from relay.errors import Outage, SchemaError, StoreBusy
from relay.postgres.connecting import in_words

log = logging.getLogger("relay.doctor")

DEADLINE: Final = 3.0
"""Seconds that a check may take, unless it says otherwise."""

BUDGET: Final = 10.0
"""Seconds that all checks of one side may take together."""

_WHO_LOCKS: Final = (
    "select pid, relation::regclass, mode from pg_locks where granted and mode ~ 'Exclusive'"
)

T_contra = TypeVar("T_contra", contravariant=True)
_Run = TypeVar("_Run", bound=Callable[[Any], Awaitable[Sequence[Any]]])


class State(enum.StrEnum):
    """What a check came to, the better first."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"
    SKIPPED = "skipped"


class Seen(NamedTuple):
    """One thing that a check saw, and the command, SQL or setting that mends it."""

    state: State
    seen: str
    remedy: str = ""


class Finding(NamedTuple):
    """``Seen``, with the side and the check that saw it."""

    side: str
    check: str
    state: State
    seen: str
    remedy: str


def ok(seen: str) -> Seen:
    """Say that all is well."""
    return Seen(State.OK, seen)


def warning(seen: str, remedy: str) -> Seen:
    """Name a risk."""
    return Seen(State.WARNING, seen, remedy)


def fault(seen: str, remedy: str) -> Seen:
    """Name what has to be mended."""
    return Seen(State.FAULT, seen, remedy)


def skipped(seen: str, remedy: str = "") -> Seen:
    """Say why nothing can be told."""
    return Seen(State.SKIPPED, seen, remedy)


@dataclass(frozen=True, slots=True)
class Check(Generic[T_contra]):
    """One check of a side.

    Attributes:
        name: as people and scripts know it, unique.
        looks_at: what it looks at, for people.
        run: what is seen, at least one thing; it may raise any error of ours.
        needs: the checks of this side that it builds on.
        deadline: s.
    """

    name: str
    looks_at: str
    run: Callable[[T_contra], Awaitable[Sequence[Seen]]]
    needs: tuple[str, ...] = ()
    deadline: float = DEADLINE


def check(
    checks: list[Check[Any]], name: str, looks_at: str, *needs: str, deadline: float = DEADLINE
) -> Callable[[_Run], _Run]:
    """Add the decorated method to ``checks``; the rest as in ``Check``."""

    def add(run: _Run) -> _Run:
        checks.append(Check(name, looks_at, run, needs, deadline))
        return run

    return add


async def run_checks(
    side: str,
    checks: Sequence[Check[T_contra]],
    subject: T_contra,
    emit: Callable[[Finding], Awaitable[Any]],
) -> None:
    """Run the checks in order, and hand each finding to ``emit`` as it comes. Raises nothing."""
    roots: dict[str, str] = {}  # the checks that tell nothing, each with the one at the root
    gone = ""
    give_up_at = anyio.current_time() + BUDGET
    for check in checks:
        root = next((gone or roots[need] for need in check.needs if gone or need in roots), "")
        left = give_up_at - anyio.current_time()
        if root:
            found: Sequence[Seen] = [skipped(f"depends on {root}")]
        elif left <= 0:
            found = [skipped(f"no time was left: {BUDGET:g} s for all checks of this side")]
        else:
            found, answered = await _run(check, subject, min(check.deadline, left))
            gone = "" if answered else check.name
        if all(each.state is State.SKIPPED for each in found):
            roots[check.name] = root or check.name
        elif any(each.state is State.FAULT for each in found):
            roots[check.name] = check.name
        for each in found:
            await emit(Finding(side, check.name, *each))


async def _run(
    check: Check[T_contra], subject: T_contra, deadline: float
) -> tuple[Sequence[Seen], bool]:
    """Run one check; return what it saw, and whether the server still answers."""
    try:
        with anyio.fail_after(deadline):
            return await check.run(subject), True
    except TimeoutError:
        seen = f"no answer within {deadline:.1f} s, though it answered before"
        return [fault(seen, "look at the server: is it frozen, overloaded, or cut off?")], False
    except Exception as error:  # noqa: BLE001 - a bug of one check must not hide the others
        return [_explained(error)], not isinstance(error, Outage)


def _explained(error: Exception) -> Seen:
    if isinstance(error, StoreBusy):
        return fault(str(error), f"end who locks it: {_WHO_LOCKS}")
    if isinstance(error, SchemaError):
        seen, _, remedy = str(error).rpartition(": ")
        is_right = isinstance(error.__cause__, psycopg.errors.InsufficientPrivilege)
        return (skipped if is_right else fault)(seen, remedy)
    if isinstance(error, Outage):
        return fault(str(error), "look at the server and its log, and try again")
    log.debug("a check failed", exc_info=error)
    why = in_words(error) if isinstance(error, psycopg.Error) else str(error)
    seen = f"the check itself failed: {type(error).__name__}: {why}"
    return fault(seen, "please report it, with what --log-level debug adds")
