"""The core of ``relay.producer``: what is written for an event, and what a refusal means.

    a framework's file ── is a transaction open? ──► values of the event ──► the caller's connection
                                                                                    │
    EventRefused, SchemaError, or the driver's own error as it is ◄── explained ◄───┘ an error

The database is authoritative: it refuses what can't be published in the producer's own statement
(``sql/functions/publishable.sql``), and there is no second copy of its rules here. Nothing here
commits, closes a connection or opens one. After a refusal the transaction has failed, as after any
failed statement: roll it back.

Frameworks differ in how they write parameters, so the statements are files with ``$1``, ``$2``, …,
each once and in order, which ``statement`` rewrites.
"""

import dataclasses
import enum
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from relay.errors import NOT_THERE, EventRefused, NoTransaction, SchemaError

_inject: Callable[[dict[str, str]], None] | None
try:
    from opentelemetry.propagate import inject as _inject
except ImportError:  # a service without opentelemetry-api has no trace to hand on
    _inject = None
except Exception as error:  # noqa: BLE001 - whatever a propagator that OTEL_PROPAGATORS names raises
    _inject = None
    logging.getLogger(__name__).warning("events go without trace context: %s", error)

NUMBERED: Final = "$"
"""Parameters as ``$1``: psycopg's raw cursors, asyncpg."""
NAMED: Final = ":p"
"""Parameters as ``:p1``: SQLAlchemy."""
POSITIONAL: Final = "%s"
"""Parameters as ``%s``: psycopg, Django."""

_HEADER: Final = re.compile(r"\A(--.*\n)+")
_PARAMETER: Final = re.compile(r"\$(\d)")
_SCHEMA: Final = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,39}")

_CHECK_VIOLATION: Final = "23514"
_NO_PRIVILEGE: Final = "42501"


class JsonText(str):
    """JSON that is written already, such as a model's ``model_dump_json()``: kept as it is."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Event:
    """One event to be written.

    Attributes:
        subject: a literal NATS subject.
        payload: what becomes JSON: dict, list, number, a pydantic model, a dataclass, JsonText; or
            bytes, which are sent as they are. Dates become ISO 8601, UUID and Decimal text.
        key: events of one key keep their order; None asks for none.
        headers: further headers of the message. ``traceparent`` and its like come by themselves.
        idempotency_key: the message id; a second event with it is not written.
        ttl: how long the stream keeps the message, in whole seconds; None as long as any other.
    """

    subject: str
    payload: object
    key: str | None = None
    headers: Mapping[str, str] | None = None
    idempotency_key: str | None = None
    ttl: timedelta | None = None


def one(event: Event) -> tuple[str, tuple[str | bytes | None, ...]]:
    """Return the statement's name for one event, and its values.

    Raises:
        TypeError: a value is of a type that can't be written; says which, and what to do.
        ValueError: the payload has a number that JSON has not (nan, inf).
    """
    subject, text, content, *rest = _values(event, _of_span())
    if content is None:
        return "emit", (subject, text, *rest)
    return "emit_bytes", (subject, content, *rest)


def many(events: Iterable[Event]) -> tuple[str, tuple[str] | tuple[()]]:
    """Return the statement's name for many events, and its value; none if there are no events.

    Raises:
        TypeError, ValueError: as ``one``.
    """
    name, of_span, rows = "emit_many", _of_span(), []
    for event in events:
        subject, text, content, key, headers, idempotency_key, ttl = _values(event, of_span)
        row = {"subject": subject, "payload": text, "key": key, "headers": headers}
        if content is not None:
            row["payload_bytes"] = content.hex()
        if idempotency_key is not None:
            row["idempotency_key"] = idempotency_key
            name = "emit_many_once"
        if ttl is not None:
            row["ttl"] = ttl
        rows.append(row)
    return name, (_encode(rows),) if rows else ()


@cache
def statement(name: str, schema: str, parameters: str) -> str:
    """Return the statement ``sql/queries/<name>.sql`` for ``schema``.

    Raises:
        ValueError: ``schema`` is no name that ``relay migrate`` would take.
    """
    if _SCHEMA.fullmatch(schema) is None:
        raise ValueError(
            f"{schema!r} is no schema name: use at most 40 of a-z, 0-9 and _, no digit first, "
            "no pg_ first"
        )
    shipped = files("relay") / "sql"
    folder = shipped if shipped.is_dir() else Path(__file__).parents[2] / "sql"
    text = (folder / "queries" / f"{name}.sql").read_text(encoding="utf-8")
    text = (
        _HEADER.sub("", text)
        .replace(':"schema"', f'"{schema}"')
        .replace(":'schema'", f"'{schema}'")
    )
    return _PARAMETER.sub(parameters if parameters == POSITIONAL else rf"{parameters}\1", text)


@contextmanager
def explained(schema: str) -> Iterator[None]:
    """Raise what a driver's error means for an event; any other error passes as it is.

    Raises:
        EventRefused: a rule of the outbox refuses the event.
        SchemaError: the outbox is not there, or this login may not write to it.
    """
    try:
        yield
    except Exception as error:
        ours = _meaning(error, schema)
        if ours is None:
            raise
        raise ours from error


def no_transaction(remedy: str) -> NoTransaction:
    """Return the error for a connection on which each statement commits by itself."""
    return NoTransaction(
        "no transaction is open, so the event would be committed by itself, whatever becomes of "
        f"your own changes: {remedy}"
    )


def wrong_type(given: object, wanted: str) -> TypeError:
    """Return the error for something else than the connection of the caller's transaction."""
    return TypeError(
        f"{type(given).__name__} is given, wanted is {wanted}: the one whose transaction changes "
        "your own tables. An engine or a pool would write the event in another one"
    )


def event_id(value: Any) -> UUID:
    """Return the id as a driver gave it."""
    return value if isinstance(value, UUID) else UUID(str(value))


def _values(
    event: Event, of_span: Mapping[str, str]
) -> tuple[str, str | None, bytes | None, str | None, str | None, str | None, str | None]:
    """Return subject, JSON text or bytes, key, headers as JSON text, idempotency key, and ttl."""
    subject, key, idempotency_key, ttl = event.subject, event.key, event.idempotency_key, event.ttl
    if not (
        isinstance(subject, str)
        and (key is None or isinstance(key, str))
        and (idempotency_key is None or isinstance(idempotency_key, str))
    ):
        raise _no_text(event)
    if ttl is not None and not isinstance(ttl, timedelta):
        raise TypeError(f"ttl is {ttl!r:.80}, a {type(ttl).__name__}: write timedelta(seconds=…)")
    lasts = None if ttl is None else f"{ttl.total_seconds():f} s"
    text, content = _content(event.payload)
    return subject, text, content, key, _headers(event.headers, of_span), idempotency_key, lasts


def _content(payload: object) -> tuple[str | None, bytes | None]:
    if isinstance(payload, bytes | bytearray | memoryview):
        return None, bytes(payload)
    if isinstance(payload, JsonText):
        return str(payload), None
    if isinstance(payload, str):
        raise TypeError(  # that does not show it: no payload belongs in a log
            "payload is a str, which may be JSON or a value: give the value's own dict, list or "
            "model; or JsonText(…) around text that is JSON already"
        )
    # None is SQL's null, which the outbox refuses with a reason; JSON's is JsonText("null").
    return None if payload is None else _encode(payload), None


def _of_span() -> dict[str, str]:
    """Return the headers of the current span."""
    headers: dict[str, str] = {}
    if _inject is not None:
        _inject(headers)
    return headers


def _headers(headers: Mapping[str, str] | None, of_span: Mapping[str, str]) -> str | None:
    """Return both as JSON text; the producer's own overrule."""
    if headers:
        of_span = headers if "traceparent" in headers else {**of_span, **headers}
    return json.dumps(dict(of_span)) if of_span else None


def _plain(value: Any) -> object:
    """Return what JSON has for a value that it does not know."""
    if dump := getattr(value, "model_dump", None):  # pydantic's, at any depth
        return dump(mode="json")
    if serializer := getattr(value, "__pydantic_serializer__", None):  # its dataclasses
        return serializer.to_python(value, mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, UUID | Decimal):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    raise TypeError(
        f"payload holds a {type(value).__qualname__}, for which JSON has nothing: turn it into "
        "text, a number, a dict or a list; or give bytes, or JsonText(…)"
    )


_encode: Final = json.JSONEncoder(
    default=_plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")
).encode


def _no_text(event: Event) -> TypeError:
    for name in ("subject", "key", "idempotency_key"):
        value = getattr(event, name)
        if not isinstance(value, str) and (value is not None or name == "subject"):
            remedy = f"write {name}=str(…)" if value is not None else "name one"
            return TypeError(f"{name} is {value!r:.80}, a {type(value).__name__}: {remedy}")
    raise AssertionError(event.subject)


def _meaning(error: Exception, schema: str) -> Exception | None:
    """Look for the server's answer in a driver's error, or in the one that a framework wraps."""
    wrapped = getattr(error, "orig", None) or error  # SQLAlchemy's
    each: Any
    for each in (wrapped, wrapped.__cause__):  # Django's, SQLAlchemy's over asyncpg; no deeper
        sqlstate = getattr(each, "sqlstate", None) or getattr(each, "pgcode", None)
        if sqlstate and (said := getattr(each, "diag", None)):  # psycopg, psycopg2
            words = said.message_primary, said.message_detail
            return _ours(sqlstate, said.constraint_name, words, schema)
        if sqlstate and hasattr(each, "constraint_name"):  # asyncpg
            return _ours(sqlstate, each.constraint_name, (each.message, each.detail), schema)
    return None


def _ours(
    sqlstate: str, rule: str | None, words: tuple[str | None, ...], schema: str
) -> Exception | None:
    message = "; ".join(filter(None, words))
    if sqlstate == _CHECK_VIOLATION and rule and rule.startswith("outbox_"):
        return EventRefused(message, rule)
    if sqlstate in NOT_THERE:
        return SchemaError(
            f'{message}: schema "{schema}" has no outbox of this release; run `relay migrate` '
            "on this database"
        )
    if sqlstate == _NO_PRIVILEGE:
        return SchemaError(f"{message}: grant {schema}_producer to this login")
    return None
