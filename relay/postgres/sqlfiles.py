"""The SQL files of ``sql/``, and the advisory locks that they and Python name.

The files are authoritative for every statement. In a wheel they lie inside the package; in a
checkout, at its top. They name the schema as psql does, ``:"schema"`` for the identifier and
``:'schema'`` for the literal, so ``psql -v schema=relay -f`` runs them as they are. Like psql, no
file uses the variable inside a dollar-quoted body. A missing file is a broken install and raises
FileNotFoundError.

Each advisory lock is a pair of integers: the class says what for, the second integer which outbox.
That is the outbox table's oid, never a stored number, so it is right again after a dump and
restore; the migration lock, which is taken before there is a table, uses ``hashtext(<schema>)``.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import count
from pathlib import Path
from typing import Final, LiteralString, cast

from psycopg import sql
from psycopg.abc import AdaptContext

BELL_CLASS: Final = 1919247481
"""Shared: a writer that kept silent; exclusive: the relay asks to be rung. Also stands in
``sql/triggers/relay_notify.sql``; a test compares the two."""

LEASE_CLASS: Final = 1919247482
"""The relay that leads."""

MIGRATION_CLASS: Final = 1919247483
"""A migration under way."""

REPLAY_CLASS: Final = 1919247484
"""A person who replays."""

ADOPT_CLASS: Final = 1919247485
"""A person who adopts a table; the second integer is that table's oid."""

MEASURE_CLASS: Final = 1919247486
"""A run of `relay measure`; the second integer is ``hashtext(<its schema>)``."""

INBOX_KEY_CLASS: Final = 1919247487
"""A change of what a consumer's inbox has parked; the second integer is made of the hashes of
consumer and key. Stands in ``sql/inbox/functions/inbox_lock_keys.sql``; a test compares the two."""

_HEADER = re.compile(r"\A(--.*\n)+")


@cache
def folder() -> Traversable:
    """Return the ``sql`` folder."""
    shipped = files("relay") / "sql"
    return shipped if shipped.is_dir() else Path(__file__).parents[2] / "sql"


@cache
def text(name: str) -> str:
    """Return the file's text, e.g. of ``queries/page``, with plain line feeds."""
    return (folder() / f"{name}.sql").read_text(encoding="utf-8")


@cache
def names(kind: str) -> Sequence[str]:
    """Return the names of a folder's files, sorted, e.g. ``functions/notify``."""
    found = (entry.name for entry in (folder() / kind).iterdir())
    return sorted(f"{kind}/{name.removesuffix('.sql')}" for name in found if name.endswith(".sql"))


def read_all() -> None:
    """Read every file now, for a process that lasts: a release may be installed over it."""
    for kind in ("functions", "migrations", "queries", "triggers", "views"):
        for name in names(kind):
            text(name)
    text("roles")


@cache
def load(name: str, schema: str) -> sql.Composed:
    """Return the file, e.g. ``queries/page``, without its header and with the schema's name."""
    return _Encoded(compose(_HEADER.sub("", text(name)), schema).as_string())


class _Encoded(sql.Composed):
    """A statement that is quoted and encoded once, not each time it is run."""

    def __init__(self, statement: LiteralString) -> None:
        super().__init__([sql.SQL(statement)])
        self._bytes = statement.encode() if statement.isascii() else None  # else by the session

    def as_bytes(self, context: AdaptContext | None = None) -> bytes:
        return super().as_bytes(context) if self._bytes is None else self._bytes


def compose(
    statement: str, schema: str, more: Mapping[str, sql.Composable] | None = None
) -> sql.Composed:
    """Return ``statement`` with the schema's name, given unquoted, in place of the variables.

    ``more`` has further variables, named as the statement writes them behind the colon.
    """
    values = {'"schema"': sql.Identifier(schema), "'schema'": sql.Literal(schema), **(more or {})}
    variable = f":({'|'.join(map(re.escape, values))})"
    # Every second piece is the variable's quoted name; the others are the text between.
    return sql.Composed(
        [
            values[piece] if index % 2 else sql.SQL(cast(LiteralString, piece))
            for index, piece in enumerate(re.split(variable, statement))
        ]
    )


def dollar_quote(tag: str, *contents: str) -> str:
    """Return a dollar-quote that ends in none of ``contents``, e.g. ``$tag$``."""
    quotes = (f"${tag}{number or ''}$" for number in count())
    return next(quote for quote in quotes if not any(quote in each for each in contents))
