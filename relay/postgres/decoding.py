"""From a statement's rows to events: in one pass, and one by one where a row can't be decoded.

A row that can't be decoded is that row's fate (R-FATE): it becomes an event with its id, event_id
and key, taken from the raw result, and nothing to publish.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import psycopg

from relay.core.event import Event

UNDECODABLE: Final = (psycopg.DataError, ValueError, TypeError, OverflowError, RecursionError)

_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ID, _EVENT_ID, _KEY = 0, 1, 4
"""Columns of every statement that returns events."""


def events_of(rows: Sequence[tuple[Any, ...]]) -> list[Event]:
    """Make events of a statement's first eight columns.

    Raises one of ``UNDECODABLE``.
    """
    make = tuple.__new__
    return [
        make(
            Event,
            (
                id_, event_id, message_id, subject, key, created_at,
                _headers(headers) if headers is not None else None, payload,
            ),
        )
        for id_, event_id, message_id, subject, key, created_at, headers, payload, *_ in rows
    ]  # fmt: skip


def _headers(text: str) -> dict[str, str]:
    headers: dict[str, str] = json.loads(text)
    if type(headers) is not dict or not all(type(value) is str for value in headers.values()):
        raise TypeError("the headers are no object of strings")
    return headers


def unreadable_event(id_: int, event_id: str, key: str | None) -> Event:
    """Return the event of a row of which no more than this is known."""
    return Event(id_, event_id, "", "", key, _LONG_AGO, None, b"")


async def one_by_one(
    cursor: psycopg.AsyncCursor[Any],
) -> tuple[list[Event], dict[int, str]]:
    """Decode each row by itself, where all at once was not to be had; those without an id are none.

    Returns the events, unreadable ones among them, and the reasons by id.
    """
    result = cursor.pgresult
    assert result is not None
    events: list[Event] = []
    reasons: dict[int, str] = {}
    for number in range(result.ntuples):
        raw_id = result.get_value(number, _ID)
        if raw_id is None:
            continue
        id_ = int.from_bytes(raw_id, signed=True)
        try:
            await cursor.scroll(number, mode="absolute")
            row = await cursor.fetchone()
            assert row is not None
            events += events_of([row])
        except UNDECODABLE as error:
            reasons[id_] = f"the row can't be decoded: {type(error).__name__}: {error}"
            raw_event_id = result.get_value(number, _EVENT_ID) or b""
            raw_key = result.get_value(number, _KEY)
            key = None if raw_key is None else raw_key.decode(errors="replace")
            events.append(unreadable_event(id_, raw_event_id.decode(), key))
    return events, reasons


def is_unreadable(error: BaseException) -> bool:
    """Say whether this came of what stands in one of the rows that a statement reads."""
    if isinstance(error, UNDECODABLE):
        return True
    cause = error if isinstance(error, psycopg.Error) else error.__cause__
    state = (cause.sqlstate or "") if isinstance(cause, psycopg.Error) else ""
    return state[:2] in ("22", "54", "XX")  # data, limits, corruption
