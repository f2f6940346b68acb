"""How a row of an adopted table becomes an event: a column or a template for each field.

A template is text with columns in braces, as ``{aggregatetype}.{type}``. The outbox's own rules
judge what values make of it, in the application's statement: a value that no subject can hold is
refused there and never rewritten, for two values must not become one subject in silence.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from relay.errors import SettingsError

DEBEZIUM: Final = {
    "subject": "{aggregatetype}.{type}",
    "key": "{aggregateid}",
    "payload": "{payload}",
    "idempotency_key": "{id}",
}
"""Field of the outbox to template: the layout of Debezium's outbox event router."""

_HEADER: Final = "header:"
_FIELDS: Final = (*DEBEZIUM, "headers")
_COLUMN: Final = re.compile(r"\{([^{}]+)\}")
_PAYLOADS: Final = {
    # type: the outbox's payload, and its payload_bytes; without one the message is empty
    "json": ("{0}", "case when {0} is null then ''::bytea end"),
    "jsonb": ("{0}::json", "case when {0} is null then ''::bytea end"),
    "text": ("null::json", "convert_to(format('%s', {0}), 'UTF8')"),
    "bytea": ("null::json", "coalesce({0}, '')"),
}


@dataclass(frozen=True, slots=True)
class Table:
    """What ``sql/adopt/table.sql`` returns.

    ``fault`` says why it can't be adopted; ``columns`` has each column's type by its name.
    """

    oid: int
    schema: str
    name: str
    is_partitioned: bool
    fault: str | None
    function: str
    is_adopted: bool
    is_backfilled: bool
    is_waiting: bool
    is_copied: bool
    owner: str
    columns: Mapping[str, str]

    def __str__(self) -> str:
        """Return the name as people write it."""
        return f"{self.schema}.{self.name}"


def fault(why: str) -> SettingsError:
    """Return the error that says ``why``."""
    return SettingsError([why])


def mapped(table: Table, fields: Mapping[str, str]) -> sql.Composed:
    """Return an expression for each column of the outbox, over a row ``r`` of the table."""
    if unknown := [name for name in fields if name not in _FIELDS and name[:7] != _HEADER]:
        raise fault(f"--map {unknown[0]}=…: the fields are {', '.join(_FIELDS)}, header:NAME")
    pieces = {name: _pieces(table, name, given) for name, given in fields.items() if given}
    for name in ("subject", "payload"):
        if name not in pieces:
            raise fault(f"an event needs a {name}: --map {name}=…")
    payload, type_ = _column(table, "payload", pieces["payload"], _PAYLOADS)
    key, message_id = (
        _text(pieces[name], optional=True) if name in pieces else sql.SQL("null::text")
        for name in ("key", "idempotency_key")
    )
    headers: list[sql.Composable] = []
    if "headers" in pieces:
        column, _ = _column(table, "headers", pieces["headers"], ("json", "jsonb"))
        headers.append(sql.SQL("coalesce({}::jsonb, '{{}}')").format(column))
    if named := [name for name in pieces if name[:7] == _HEADER]:
        pairs = [
            sql.SQL("{}, {}").format(name[7:], _text(pieces[name], optional=True)) for name in named
        ]
        headers.append(
            sql.SQL("jsonb_strip_nulls(jsonb_build_object({}))").format(sql.SQL(", ").join(pairs))
        )
    return sql.SQL(",\n         ").join([
        _text(pieces["subject"]), key,
        *(sql.SQL(form).format(payload) for form in _PAYLOADS[type_]),
        sql.SQL(" || ").join(headers) if headers else sql.SQL("null::jsonb"),
        message_id,
    ])  # fmt: skip


def _pieces(table: Table, field: str, given: str) -> list[str]:
    """Return the template's literals, and between them the columns."""
    pieces = ["", given, ""] if given in table.columns else _COLUMN.split(given)
    if len(pieces) == 1 and not (field == "subject" and "." in given):
        pieces = ["", given, ""]
    for column in pieces[1::2]:
        type_ = table.columns.get(column)
        if type_ in (None, "virtual"):
            why = "no column" if type_ is None else "only a virtual column"
            raise fault(
                f"the {field} is to come from {column}, and {table} has {why} "
                f"of that name: say --map {field}=…, with a column, or with a template that has "
                f"columns in braces; there are {', '.join(table.columns)}"
            )
    if field == "idempotency_key" and table.columns.get(given.strip("{}")) == "number":
        # a number alone would be the message id of some other table's event as well
        pieces[0] = f"{table}:"
    return pieces


def _text(pieces: list[str], *, optional: bool = False) -> sql.Composable:
    """Return the template's text; with ``optional`` null where all of its columns are null.

    ``format`` writes a value by its type's own output function. A cast could be one that somebody
    has made, and would run in the name of the outbox's owner.
    """
    columns = [sql.SQL("r.{}").format(sql.Identifier(name)) for name in pieces[1::2]]
    template = "%s".join(piece.replace("%", "%%") for piece in pieces[::2])
    made = sql.SQL("format({})").format(sql.SQL(", ").join([sql.Literal(template), *columns]))
    if not (optional and columns):
        return made
    return sql.SQL("case when num_nonnulls({}) > 0 then {} end").format(
        sql.SQL(", ").join(columns), made
    )


def _column(
    table: Table, field: str, pieces: list[str], types: Collection[str]
) -> tuple[sql.Composed, str]:
    """Return the one column of a field that is not text, and its type."""
    name = pieces[1] if pieces == ["", pieces[1], ""] else ""
    type_ = table.columns.get(name, "no single column")
    if type_ not in types:
        raise fault(
            f"the {field} is to come from {name or 'a template'}, which is {type_}: it takes one "
            f"column of {', '.join(types)}"
        )
    return sql.SQL("r.{}").format(sql.Identifier(name)), type_
