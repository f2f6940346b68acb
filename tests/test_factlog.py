"""The sinks of facts: one that fails is logged once and left out, the others are told on."""

import json
import logging
from io import StringIO

import pytest

from relay.factlog import FactSinks, record
from relay.facts import Fact, HousekeepingFailed, Pruned, StandingBy, TermEnded
from relay.logformat import JsonLines

FACT, NEXT = Pruned(1), Pruned(2)


class Broken:
    """A sink that fails at the n-th fact."""

    def __init__(self, error: BaseException, at: int = 1) -> None:
        self.error = error
        self.at = at
        self.heard = 0

    def record(self, _: Fact) -> None:
        self.heard += 1
        if self.heard == self.at:
            raise self.error


@pytest.mark.parametrize(
    ("error", "at"),
    [
        (ZeroDivisionError("a bug"), 1),
        (KeyError("later"), 2),
        (TimeoutError("of its own"), 1),
        (ExceptionGroup("tasks", [ValueError("x")]), 1),
    ],
)
def test_a_sink_that_raises_is_logged_once_and_left_out(
    error: Exception, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    before, broken, after = list[Fact](), Broken(error, at), list[Fact]()
    sinks = FactSinks([before.append, broken.record, after.append])
    for _ in range(3):
        sinks.record(FACT)
        sinks.record(NEXT)
    assert before == after == [FACT, NEXT] * 3
    assert broken.heard == at
    (line,) = caplog.records
    assert line.levelno == logging.ERROR
    assert "left out" in line.message
    assert (line.sink, line.fact) == ("Broken.record", "Pruned")


def test_its_line_has_the_traceback_in_the_form_of_every_line() -> None:
    out = StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonLines())
    log = logging.getLogger("relay")
    log.addHandler(handler)
    try:
        FactSinks([Broken(ZeroDivisionError("a bug")).record]).record(FACT)
    finally:
        log.removeHandler(handler)
    told = json.loads(out.getvalue())
    assert "ZeroDivisionError: a bug" in told["traceback"]
    assert "test_factlog.py" in told["traceback"]


def test_two_that_fail_at_one_fact_are_both_left_out_and_a_later_one_is_told() -> None:
    one, two, told = Broken(ValueError("1")), Broken(ValueError("2")), list[Fact]()
    sinks = FactSinks([one.record, two.record])
    sinks.add(told.append)
    sinks.record(FACT)
    sinks.record(NEXT)
    assert (one.heard, two.heard, told) == (1, 1, [FACT, NEXT])


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_is_let_through(end: type[BaseException]) -> None:
    with pytest.raises(end):
        FactSinks([Broken(end()).record]).record(StandingBy("me"))


def test_a_sink_that_fails_while_it_fails_again_does_not_recurse() -> None:
    """What a sink logs may itself become a fact of another sink."""
    sinks = FactSinks()

    def again(fact: Fact) -> None:
        if fact is FACT:
            sinks.record(NEXT)
        raise ValueError(type(fact).__name__)

    sinks.add(again)
    sinks.record(FACT)
    told = list[Fact]()
    sinks.add(told.append)
    sinks.record(NEXT)
    assert told == [NEXT]


def test_a_reason_that_there_is_not_is_left_out_of_the_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="relay"):
        record(TermEnded(3, ""))
    (line,) = caplog.records
    assert (line.epoch, hasattr(line, "reason")) == (3, False)  # type: ignore[attr-defined]


def test_housekeeping_that_fails_again_is_no_line_at_the_usual_level(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    record(HousekeepingFailed("no session"))
    record(HousekeepingFailed("no session", again=True))
    assert [line.levelno for line in caplog.records] == [logging.WARNING, logging.DEBUG]
