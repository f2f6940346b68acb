"""Log lines: their two forms, and what never gets into them."""

import io
import json
import logging
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.telemetry import logs

CANARY = "c4n4ry-in-the-mine"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def configure():
    """Configure into a stream of the test's own; put the process's logging back afterwards."""
    root, names = logging.getLogger(), ("relay", "nats", "psycopg", "psycopg.pool")
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in names}

    def into(stream, log_format="auto", level="info"):
        logs.configure(log_format, level, stream=stream)
        return stream

    yield into
    for handler in list(root.handlers):
        if handler not in handlers:
            root.removeHandler(handler)
    root.setLevel(level)
    for name, former in levels.items():
        logging.getLogger(name).setLevel(former)


def record(message, *args, name="relay.test", level=logging.INFO, exc_info=None, **extras):
    made = logging.LogRecord(name, level, __file__, 1, message, args, exc_info)
    made.created = datetime(2026, 1, 31, 10, 0, 0, 500_000, tzinfo=UTC).timestamp()
    vars(made).update(extras)
    return made


def caught(error):
    with pytest.raises(type(error)) as info:
        raise error
    return info._excinfo


def test_text_is_one_line_with_the_extras_behind_the_message():
    line = logs.TextLines().format(
        record("leading", epoch=3, holder="a b", ratio=0.5, clean=True, gone=None, quote='"')
    )
    assert line == (
        "2026-01-31T10:00:00.500Z INFO relay.test leading"
        ' epoch=3 holder="a b" ratio=0.5 clean=true gone=null quote="\\""'
    )


def test_json_is_one_object_with_the_extras_as_fields():
    at = datetime(2026, 1, 1, tzinfo=UTC)
    line = logs.JsonLines().format(record("leading by %s", "lease", epoch=3, at=at, event="x"))
    assert json.loads(line) == {
        "ts": "2026-01-31T10:00:00.500Z",
        "level": "info",
        "logger": "relay.test",
        "event": "leading by lease",
        "epoch": 3,
        "at": "2026-01-01T00:00:00+00:00",
        "event_": "x",
    }


@given(st.text(), st.text())
def test_no_text_can_break_its_line_or_drive_the_terminal(message, value):
    made = record("%s", message, value=value)
    for form in (logs.TextLines(), logs.JsonLines()):
        assert form.format(made).isprintable()


def test_long_values_are_cut():
    line = json.loads(logs.JsonLines().format(record("m", value="x" * 10_000)))
    assert line["value"] == "x" * 255 + "…"


def test_payloads_and_secrets_do_not_get_into_a_line():
    made = record(
        f"could not reach nats://u:{CANARY}@h",
        body=CANARY.encode(),
        nats_password=CANARY,
        payload=CANARY,
        headers={"a": CANARY},
        dsn=CANARY,
        reason=f"host=h password='{CANARY} x'",
        url=f"tls://{CANARY}@h",
        exc_info=caught(ValueError(f"postgresql://u:{CANARY}@h/db")),
    )
    for form in (logs.TextLines(), logs.JsonLines()):
        assert CANARY not in form.format(made)
    assert json.loads(logs.JsonLines().format(made))["body"] == "18 bytes"


def test_a_bug_shows_its_traceback_and_a_librarys_lost_connection_one_line():
    exc_info = caught(ConnectionResetError("gone"))
    ours = record("bug", exc_info=exc_info)
    theirs = record("nats: encountered error", exc_info=exc_info, name="nats.aio.client")
    assert "Traceback (most recent call last):" in logs.TextLines().format(ours)
    assert "test_logs.py" in json.loads(logs.JsonLines().format(ours))["traceback"]
    assert logs.TextLines().format(theirs).endswith(' error="ConnectionResetError: gone"')
    assert "traceback" not in json.loads(logs.JsonLines().format(theirs))


def test_a_repeated_fault_is_written_once_a_second_with_the_count_of_those_left_out():
    clock = [100.0]
    repeats = logs.Repeats(now=lambda: clock[0])
    written = []
    for moment in [100.0, 100.1, 100.2, 100.99, 101.0, 101.5, 103.0]:
        clock[0] = moment
        made = record("away", level=logging.WARNING)
        if repeats.filter(made):
            written.append((moment, getattr(made, "repeated", 0)))
    assert written == [(100.0, 0), (101.0, 3), (103.0, 1)]


def test_other_messages_other_loggers_and_news_are_not_held_back():
    repeats = logs.Repeats(now=lambda: 1.0)
    assert repeats.filter(record("a %s", 1, level=logging.WARNING))
    assert repeats.filter(record("a %s", 2, level=logging.WARNING))
    assert repeats.filter(record("a %s", 1, level=logging.WARNING, name="relay.other"))
    assert not repeats.filter(record("a %s", 1, level=logging.WARNING))
    assert all(repeats.filter(record("news")) for _ in range(3))


def test_any_number_of_different_faults_is_held_in_bounded_memory():
    repeats = logs.Repeats(now=lambda: 1.0)
    for number in range(5_000):
        repeats.filter(record(f"fault {number}", level=logging.ERROR))
    assert len(repeats._seen) == 1_000


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
