"""The schema as files: the steps that make it, in their order, and one script of them all.

A step is a numbered migration, or, as version 0, all functions and views together. What a database
has of them stands in its table ``migration``, by version, name and checksum.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from relay.errors import SchemaError
from relay.postgres.locks import MIGRATION_CLASS
from relay.postgres.sqlfiles import compose, names, text

REPLACED: Final = 0
"""The version under which the common checksum of functions and views is recorded."""

BEFORE_RELEASE: Final = "0001_migration"
"""How the first migration was called in schemas that no release has made."""

LOCK_TIMEOUT_MS: Final = 500
"""How long producers may queue behind one attempt."""

SETTINGS: Final = f"""\
set local search_path = pg_catalog, pg_temp;
set local client_min_messages = notice;
set local statement_timeout = 0;
set local lock_timeout = {LOCK_TIMEOUT_MS};
"""
LOCK: Final = f"select pg_advisory_xact_lock({MIGRATION_CLASS}, hashtext(:'schema'));\n"
CREATE: Final = 'create schema if not exists :"schema";\n'

_OUTDATED = """\
schema "{0}" was made before the first release of the relay, and can't be brought up to date: let \
the relay that made it deliver what waits, rename it (alter schema "{0}" rename to "{0}_old"), and \
migrate again"""
_RECORD = """\
insert into :"schema".migration (version, name, checksum) values ({}, '{}', '{}')
on conflict (version) do update
   set name = excluded.name, checksum = excluded.checksum, applied_at = excluded.applied_at;
"""


@dataclass(frozen=True, slots=True)
class Step:
    """Something to apply: a numbered migration, or (version 0) all functions and views.

    Attributes:
        version: the order.
        name: what people see, e.g. ``0001_outbox``.
        files: names as ``sqlfiles.load`` takes them.
        checksum: SHA-256 of the files' text, in hex.
    """

    version: int
    name: str
    files: Sequence[str]
    checksum: str


def known(schema: str) -> list[Step]:
    """Return every step of this relay, in the order of applying."""
    replaced = [*names("functions"), *names("views")]
    return [
        # emit and others hold the schema's name: after a rename they are replaced
        Step(REPLACED, "functions and views", replaced, _digest([*map(text, replaced), schema])),
        *(
            Step(
                int(name[len("migrations/") :][:4]),
                name[len("migrations/") :],
                [name],
                _digest([text(name)]),
            )
            for name in names("migrations")
        ),
    ]


def pending(
    steps: Sequence[Step], applied: Mapping[int, tuple[str, str]], schema: str
) -> list[Step]:
    """Return the steps that a schema lacks, given its name and checksum by applied version.

    Raises:
        SchemaError: an applied migration has another text here, or is not known here.
    """
    if applied.get(1, ("",))[0] == BEFORE_RELEASE:
        raise SchemaError(_OUTDATED.format(schema))
    here = {step.version: step for step in steps}
    for version, (name, checksum) in sorted(applied.items()):
        if version not in here:
            raise SchemaError(
                f"the schema is newer than this relay: it has migration {name}, the last one known "
                f"here is {max(here):04}; install the release that applied it, or a later one"
            )
        if version != REPLACED and checksum != here[version].checksum:
            raise SchemaError(
                f"migration {here[version].name} is not the one that was applied here as {name} "
                f"(checksum {here[version].checksum[:12]}, applied {checksum[:12]}): applied "
                "migrations are never edited; install an unchanged release of the relay"
            )
    return [step for step in steps if applied.get(step.version, ("", ""))[1] != step.checksum]


def script(schema: str) -> str:
    """Return the SQL that makes the whole schema in a database without one; psql can run it."""
    steps = known(schema)
    files = [
        *names("functions"),
        *names("migrations"),
        *names("views"),
        *names("triggers"),
    ]
    parts = [*map(text, files), *map(record, steps), text("roles")]
    return "\n".join(
        [
            "set search_path = pg_catalog, pg_temp;",
            "-- The whole outbox, for a database that has none. One transaction: all or nothing.",
            "begin;",
            SETTINGS + _text(LOCK + CREATE, schema),
            *(SETTINGS + _text(part, schema) for part in parts),
            "commit;\n",
        ]
    )


def record(step: Step) -> str:
    """Return the statement that records a step as applied."""
    return _RECORD.format(step.version, step.name, step.checksum)


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("".join(texts).encode()).hexdigest()


def _text(statement: str, schema: str) -> str:
    return compose(statement, schema).as_string()
