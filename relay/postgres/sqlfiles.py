"""Finds and loads the SQL files of ``sql/``.

In a wheel they lie inside the package; in a checkout, at its top. The files are authoritative for
every statement; they name the schema as psql does, ``:"schema"`` for the identifier and
``:'schema'`` for the literal, so ``psql -v schema=relay -f`` runs them as they are. Like psql, no
file uses the variable inside a dollar-quoted body. A missing file is a broken install and raises
FileNotFoundError.
"""

import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import LiteralString, cast

from psycopg import sql

_HEADER = re.compile(r"\A(--.*\n)+")
_VARIABLE = re.compile(r""":("schema"|'schema')""")


@cache
def folder() -> Traversable:
    """Return the ``sql`` folder."""
    shipped = files("relay") / "sql"
    if shipped.is_dir():
        return shipped
    return Path(__file__).parents[2] / "sql"


@cache
def text(name: str) -> str:
    """Return the file's text, e.g. of ``queries/page``, with plain line feeds."""
    return (folder() / f"{name}.sql").read_text(encoding="utf-8")


def names(kind: str) -> list[str]:
    """Return the names of a folder's files, sorted, e.g. ``functions/notify``."""
    found = (entry.name for entry in (folder() / kind).iterdir())
    return sorted(f"{kind}/{name.removesuffix('.sql')}" for name in found if name.endswith(".sql"))


def load(name: str, schema: str) -> sql.Composed:
    """Return the file without its header, with the schema's name put in.

    Args:
        name: folder and file without its ending, e.g. ``queries/page``.
        schema: the outbox's schema, unquoted.
    """
    return compose(_HEADER.sub("", text(name)), schema)


def compose(statement: str, schema: str) -> sql.Composed:
    """Return ``statement`` with the schema's name put in."""
    parts: list[sql.Composable] = []
    # Every second piece is the variable's quoted name; the others are the text between.
    for index, piece in enumerate(_VARIABLE.split(statement)):
        if index % 2 == 0:
            parts.append(sql.SQL(cast(LiteralString, piece)))
        else:
            parts.append(sql.Identifier(schema) if piece == '"schema"' else sql.Literal(schema))
    return sql.Composed(parts)
