"""Log lines: where they go, how often a fault is repeated, and which trace they name."""

import asyncio
import gc
import io
import json
import logging
import sys
import threading
import time
import warnings
from datetime import UTC, datetime
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from relay import factlog, logformat, logs
from relay.core.disposition import Parking
from relay.core.event import Event
from relay.core.outcome import Fault
from relay.facts import Parked
from relay.logs import REPEAT_EVERY, Repeats

CANARY = "c4n4ry-in-the-mine"
ROW = f'DETAIL:  Failing row contains (7, {{"card": "{CANARY}"}})'


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def configure(own_logging):
    """Configure into a stream of the test's own."""

    def into(stream, log_format="auto", level="info"):
        logs.configure(log_format, level, stream=stream)
        return stream

    return into


def record(message, *args, name="relay.test", level=logging.INFO, exc_info=None, **extras):
    made = logging.LogRecord(name, level, __file__, 1, message, args, exc_info)
    made.created = datetime(2026, 1, 31, 10, 0, 0, 500_000, tzinfo=UTC).timestamp()
    vars(made).update(extras)
    return made


def test_warnings_and_what_nobody_caught_are_lines_like_all_others(configure):
    out = configure(io.StringIO())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.take_all()
        warnings.warn("an old way", DeprecationWarning, stacklevel=1)
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    sys.excepthook(ValueError, ValueError(f"nobody\n{ROW}"), None)
    sys.unraisablehook(SimpleNamespace(exc_value=KeyError("k"), object=None))
    asyncio.run(neglect())
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["logger"] for line in told] == ["py.warnings", *["relay"] * 3, "asyncio"]
    assert "an old way" in told[0]["event"]
    assert "ZeroDivisionError" in told[1]["traceback"]
    assert "nobody" in told[2]["traceback"]
    assert "never retrieved" in told[4]["event"]
    assert CANARY not in out.getvalue()


async def neglect():
    async def fail():
        raise ValueError(ROW)

    task = asyncio.get_running_loop().create_task(fail())
    while not task.done():
        await asyncio.sleep(0)
    del task
    gc.collect()


def test_a_line_that_cannot_be_formed_is_told_as_a_line(capsys):
    out = io.StringIO()
    lines_ = logs.Lines(out)
    lines_.setFormatter(logformat.JsonLines())
    lines_.handle(record("%d of %d", 1))
    (line,) = map(json.loads, out.getvalue().splitlines())
    assert (line["event"], line["of"]) == ("a log line could not be formed", "relay.test")
    assert capsys.readouterr().err == ""


def fault(message="away", *args, name="relay.test", **extras):
    return record(message, *args, name=name, level=logging.WARNING, **extras)


def test_a_repeated_fault_is_written_once_a_second_with_the_count_of_those_left_out():
    clock = [100.0]
    repeats = Repeats(now=lambda: clock[0])
    written = []
    for moment in [100.0, 100.1, 100.2, 100.99, 101.0, 101.5, 103.0]:
        clock[0] = moment
        made = fault()
        if repeats.passes(made):
            written.append((moment, getattr(made, "repeated", 0)))
    assert written == [(100.0, 0), (101.0, 3), (103.0, 1)]


def test_the_last_of_a_burst_is_written_though_nothing_follows_it():
    clock = [100.0]
    repeats = Repeats(now=lambda: clock[0])
    faults = [fault(number=number) for number in range(5)]
    assert [repeats.passes(each) for each in faults] == [True] + [False] * 4
    assert repeats.holding
    assert repeats.take_due() == []
    clock[0] = 101.0
    assert repeats.take_due() == [faults[-1]]
    assert faults[-1].repeated == 3
    assert not repeats.holding
    assert not repeats.passes(fault())  # that was a line, too: its own window has begun


@given(st.lists(st.floats(0.0, 0.7), max_size=50))
def test_written_and_counted_are_all_there_were_and_never_two_within_a_second(pauses):
    clock = [0.0]
    repeats = Repeats(now=lambda: clock[0])
    written = []
    for pause in pauses:
        clock[0] += pause
        due = repeats.take_due()
        made = fault()
        written += [(clock[0], each) for each in due]
        if repeats.passes(made):
            written.append((clock[0], made))
    written += [(clock[0] + REPEAT_EVERY, each) for each in repeats.take_due(all_=True)]
    moments = [moment for moment, _ in written]
    assert all(later - former > REPEAT_EVERY - 1e-9 for former, later in pairwise(moments))
    assert sum(1 + getattr(each, "repeated", 0) for _, each in written) == len(pauses)


def test_other_messages_other_loggers_and_news_are_not_held_back():
    repeats = Repeats(now=lambda: 1.0)
    assert repeats.passes(fault("a %s", 1))
    assert repeats.passes(fault("a %s", 2))
    assert repeats.passes(fault("a %s", 1, name="relay.other"))
    assert not repeats.passes(fault("a %s", 1))
    assert all(repeats.passes(record("news")) for _ in range(3))


@pytest.mark.parametrize("about", ["side", "by", "breaker", "stream"])
def test_the_same_message_about_something_else_is_not_held_back(about):
    repeats = Repeats(now=lambda: 1.0)
    assert repeats.passes(fault(**{about: "one"}))
    assert repeats.passes(fault(**{about: "another"}))
    assert not repeats.passes(fault(**{about: "one"}))


def test_a_collector_that_is_away_is_a_line_a_minute_whatever_its_words():
    clock = [0.0]
    repeats = Repeats(now=lambda: clock[0])
    exporter, written = "opentelemetry.exporter.otlp.proto.grpc.exporter", 0
    for second in range(180):
        clock[0] = float(second)
        written += repeats.passes(fault(f"retrying in {second / 7} s", name=exporter))
    assert written == 3


def test_any_number_of_different_faults_is_held_in_bounded_memory():
    repeats = Repeats(now=lambda: 1.0)
    for number in range(5_000):
        repeats.passes(fault(f"fault {number}"))
    assert len(repeats._windows) == 1_000


def test_what_is_held_back_is_written_by_itself_and_at_the_end(configure):
    out = configure(io.StringIO())
    for number in range(3):
        logging.getLogger("relay.test").warning("away", extra={"number": number})
    assert lines(out)[:1] == [("away", 0, None)]
    until = time.monotonic() + 10
    while len(lines(out)) < 2 and time.monotonic() < until:
        threading.Event().wait(0.02)
    assert lines(out)[1:] == [("away", 2, 1)]
    logging.getLogger("relay.test").warning("away", extra={"number": 4})
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logs.Lines):
            handler.close()
    assert lines(out)[2:] == [("away", 4, None)]


def lines(out):
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    return [(each["event"], each["number"], each.get("repeated")) for each in told]


def test_a_line_written_within_a_span_names_it(configure):
    out = configure(io.StringIO())
    within = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1))
    log = logging.getLogger("relay.test")
    with use_span(NonRecordingSpan(within)):
        log.info("here")
        log.info("of an event", extra={"trace_id": "7"})
    log.info("elsewhere")
    here, event, elsewhere = map(json.loads, out.getvalue().splitlines())
    assert (here["trace_id"], here["span_id"]) == (f"{0xABC:032x}", f"{0xDEF:016x}")
    assert event["trace_id"] == "7"
    assert "span_id" not in event
    assert "trace_id" not in elsewhere


def test_a_refused_event_names_its_producers_trace(configure):
    out = configure(io.StringIO())
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    event = Event(
        *(7, "e", "m", "orders.placed", None, datetime(2026, 1, 1, tzinfo=UTC)),
        {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-00", "secret": CANARY},
        CANARY.encode(),
    )
    factlog.record(Parked.of(event, Parking(7, "e", 1, delay=None, error="too large"), Fault.EVENT))
    assert json.loads(out.getvalue())["trace_id"] == trace_id
    assert CANARY not in out.getvalue()


@pytest.mark.parametrize(
    ("stream", "log_format", "is_json"),
    [
        (Terminal, "auto", False),
        (io.StringIO, "auto", True),
        (Terminal, "json", True),
        (io.StringIO, "text", False),
    ],
)
def test_a_terminal_gets_text_and_everything_else_json(configure, stream, log_format, is_json):
    out = configure(stream(), log_format)
    logging.getLogger("relay.test").info("hello")
    assert out.getvalue().startswith("{") is is_json
    assert "hello" in out.getvalue()


def test_the_level_is_the_relays_own_and_libraries_tell_errors_only(configure):
    out = configure(io.StringIO(), level="debug")
    logging.getLogger("relay.test").debug("ours")
    logging.getLogger("other").info("not wanted")
    logging.getLogger("nats.aio.client").warning("not wanted")
    logging.getLogger("psycopg.pool").warning("not wanted")
    logging.getLogger("psycopg").error("theirs")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["ours", "theirs"]


def test_configuring_again_does_not_write_twice(configure):
    first, second = configure(io.StringIO()), configure(io.StringIO())
    logging.getLogger("relay.test").info("once")
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1
