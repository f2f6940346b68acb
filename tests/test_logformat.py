"""How a record becomes a line: its two forms, and what never gets into them."""

import json
import logging
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import logformat

CANARY = "c4n4ry-in-the-mine"


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
    line = logformat.TextLines().format(
        record("leading", epoch=3, holder="a b", ratio=0.5, clean=True, gone=None, quote='"')
    )
    assert line == (
        "2026-01-31T10:00:00.500Z INFO relay.test leading"
        ' epoch=3 holder="a b" ratio=0.5 clean=true gone=null quote="\\""'
    )


@pytest.mark.parametrize(
    ("value", "text"), [(1.0190000000002328, "1.019"), (0.1 + 0.2, "0.3"), (2.5e-7, "0.0")]
)
def test_a_figure_is_written_to_the_microsecond(value, text):
    made = record("m", seconds=value)
    assert logformat.TextLines().format(made).endswith(f" seconds={text}")
    assert f'"seconds": {text}}}' in logformat.JsonLines().format(made)


def test_json_is_one_object_with_the_extras_as_fields():
    at = datetime(2026, 1, 1, tzinfo=UTC)
    line = logformat.JsonLines().format(record("leading by %s", "lease", epoch=3, at=at, event="x"))
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
    for form in (logformat.TextLines(), logformat.JsonLines()):
        assert form.format(made).isprintable()


def test_long_values_are_cut():
    line = json.loads(logformat.JsonLines().format(record("m", value="x" * 10_000)))
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
    for form in (logformat.TextLines(), logformat.JsonLines()):
        assert CANARY not in form.format(made)
    assert json.loads(logformat.JsonLines().format(made))["body"] == "18 bytes"


def test_a_bug_shows_its_traceback_and_a_librarys_lost_connection_one_line():
    exc_info = caught(ConnectionResetError("gone"))
    ours = record("bug", exc_info=exc_info)
    theirs = record("nats: encountered error", exc_info=exc_info, name="nats.aio.client")
    assert "Traceback (most recent call last):" in logformat.TextLines().format(ours)
    assert "test_logformat.py" in json.loads(logformat.JsonLines().format(ours))["traceback"]
    assert logformat.TextLines().format(theirs).endswith(' error="ConnectionResetError: gone"')
    assert "traceback" not in json.loads(logformat.JsonLines().format(theirs))


ROW = f'DETAIL:  Failing row contains (7, {{"card": "{CANARY}"}})'


class ServersError(Exception):
    """What psycopg raises: the server's message in parts, in the server's language."""

    sqlstate = "23514"

    def __init__(self, text, primary):
        super().__init__(text)
        self.diag = SimpleNamespace(message_primary=primary)


def chained():
    error = RuntimeError(f"settling failed: new row violates\n{ROW}")
    error.__cause__ = ServersError(f"new row violates\n{ROW}", "new row violates")
    return error


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (ServersError(f"new row violates\n{ROW}\nCONTEXT:  x", "new row violates"), "23514"),
        (ServersError(f"neue Zeile verletzt\nDETAIL: x {CANARY}", "neue Zeile"), "neue Zeile"),
        (RuntimeError(f"new row violates {ROW} CONTEXT: SQL"), "new row violates"),
        (chained(), "settling failed: new row violates"),
        (ExceptionGroup("tasks", [chained(), ValueError(ROW)]), "direct cause"),
    ],
)
@pytest.mark.parametrize("name", ["relay.run", "psycopg", "asyncio"])
def test_a_row_that_postgres_quotes_does_not_get_into_a_line(error, kept, name):
    asyncios = f"Task exception was never retrieved\nfuture: <Task exception={error!r}>"
    made = record(asyncios, name=name, exc_info=caught(error), reason=str(error), error_=error)
    told = [form.format(made) for form in (logformat.TextLines(), logformat.JsonLines())]
    assert CANARY not in "".join(told)
    if name == "relay.run":
        assert kept in json.loads(told[1])["traceback"]


def test_an_exception_that_cannot_say_what_it_is_is_told_by_its_class():
    class MuteError(Exception):
        def __str__(self):
            raise ZeroDivisionError

    made = record("bug", exc_info=caught(MuteError()))
    assert "MuteError: <no text>" in logformat.TextLines().format(made)


def test_causes_without_end_are_told_to_an_end():
    error = ValueError("0")
    for number in range(1, 100):
        later = ValueError(str(number))
        later.__cause__ = error
        error = later  # the newest at the end
    loop = ValueError("loop")
    loop.__context__ = RuntimeError("of")
    loop.__context__.__context__ = loop
    for each in (error, loop, ExceptionGroup("many", [ValueError(str(n)) for n in range(500)])):
        told = json.loads(logformat.JsonLines().format(record("bug", exc_info=caught(each))))
        assert len(told["traceback"]) < 8_000


def test_what_a_producer_s_context_holds_does_not_get_into_a_line():
    made = record("m", tracestate=CANARY, baggage=CANARY, headers=CANARY)
    assert CANARY not in logformat.JsonLines().format(made)
