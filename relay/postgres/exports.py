"""The migrations as files for the tools that people have: psql, Alembic, Django.

    SCHEMA_0001_…  …  SCHEMA_000n_…      a numbered migration each; where it is applied, nothing
    SCHEMA_functions(_CHECKSUM)          the release's functions, views, triggers and roles

Each file is one statement that records what ``migrations`` would record, so ``relay migrate`` and
the files may take turns. A file that is there is never written again, because tools remember what
they have run, but for psql's functions, which psql runs anew each time. A later release writes what
is new, behind the last file.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from psycopg import sql

from relay.postgres.migrations import REPLACED, Step, all_steps
from relay.postgres.sqlfiles import MIGRATION_CLASS, compose, dollar_quote, names, text

LONGEST: Final = 32
"""Characters that Alembic's own table has for a revision."""

_ALEMBIC: Final = '''\
"""The outbox, part {part}: {name}. Written by `relay migrate --format alembic`."""

import sqlalchemy
from alembic import op

revision = {name!r}
down_revision = {before!r}
branch_labels = None
depends_on = None

SQL = {sql}


def upgrade() -> None:
    op.execute(sqlalchemy.text(SQL.replace(":", "\\\\:")))  # a colon is no parameter


def downgrade() -> None:
    """Leave the outbox: it may hold events that are not delivered yet."""
'''
_DJANGO: Final = '''\
"""The outbox, part {part}: {name}. Written by `relay migrate --format django`."""

from django.db import migrations

SQL = {sql}


class Migration(migrations.Migration):
    initial = {first}
    dependencies = {dependencies}
    # Backwards the outbox is left: it may hold events that are not delivered yet.
    operations = [migrations.RunSQL(SQL, migrations.RunSQL.noop)]
'''
_PART: Final = re.compile(r'\A"""The outbox, part (\d+)')


def write(folder: Path, schema: str, tool: str) -> list[str]:
    """Write what ``folder`` lacks for ``tool``; return the names of the files that were written.

    Raises:
        OSError: the folder can't be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = re.sub(r"\W", "_", schema)[:12]
    steps = [step for step in all_steps(schema) if step.version != REPLACED]
    statements = {f"{start}_{step.name}"[:LONGEST]: _step(schema, step) for step in steps}
    release = _release(schema, steps[-1])
    if tool == "psql":
        statements[f"{start}_functions"] = release
        paths = {folder / f"{name}.sql": each for name, each in statements.items()}
        return [path.name for path, each in paths.items() if _put(path, each, each == release)]
    statements[f"{start}_functions_{hashlib.sha256(release.encode()).hexdigest()[:8]}"] = release
    there = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob(f"{start}_*.py")}
    parts = {int(found[1]): name for name, each in there.items() if (found := _PART.match(each))}
    part = max(parts, default=0)
    before = parts.get(part)
    written = []
    for name, statement in statements.items():
        if name in there:
            continue
        part += 1
        content = (_ALEMBIC if tool == "alembic" else _DJANGO).format(
            part=part,
            name=name,
            before=before,
            first=before is None,
            dependencies=[("relay_outbox", before)] if before else [],
            sql=repr(statement) if '"""' in statement else f'r"""\n{statement}"""',
        )
        (folder / f"{name}.py").write_text(content, encoding="utf-8")
        written.append(f"{name}.py")
        before = name
    return written


def _put(path: Path, statement: str, renewed: bool) -> bool:
    """Write a file for psql if it is not there, or is out of date; return whether it was."""
    if path.exists() and not (renewed and path.read_text(encoding="utf-8") != statement):
        return False
    path.write_text(statement, encoding="utf-8")
    return True


def _step(schema: str, step: Step) -> str:
    """Return the statement that applies a migration, with the functions that it names.

    Its tables call them, or it drops what they were before: producers need what follows at once.
    """
    content = text(f"migrations/{step.name}")
    called = [each for each in map(text, names("functions")) if f"{_made_by(each)}(" in content]
    whole = _quoted(schema, *called, content, step.record)
    return _filled("export/step", schema, {"version": sql.Literal(step.version), "text": whole})


def _made_by(function: str) -> str:
    """Return the name of what a file of ``functions`` makes, as files write it."""
    found = re.search(r'create or replace function (:"schema"\.\w+)\(', function)
    assert found is not None
    return found[1]


def _release(schema: str, last: Step) -> str:
    """Return the statement that brings everything up to date that has no number."""
    replaced = all_steps(schema)[0]
    views = names("views")
    comma = sql.SQL(", ")
    return _filled(
        "export/release",
        schema,
        {
            "version": sql.Literal(last.version),
            "checksum": sql.Literal(replaced.checksum),
            "functions": _quoted(schema, *map(text, names("functions"))),
            "views": comma.join([_quoted(schema, text(name)) for name in views]),
            "names": comma.join([sql.Literal(name.removeprefix("views/")) for name in views]),
            "triggers": _quoted(schema, *map(text, names("triggers")), replaced.record),
            "roles": _quoted(schema, text("roles")),
        },
    )


def _quoted(schema: str, *parts: str) -> sql.SQL:
    """Return the statements as one text of SQL."""
    content = "\n".join(compose(part, schema).as_string() for part in parts)
    quote = dollar_quote("step", content)
    return sql.SQL(f"{quote}\n{content}{quote}")


def _filled(name: str, schema: str, parts: Mapping[str, sql.Composable]) -> str:
    lock = sql.Literal(MIGRATION_CLASS)
    body = sql.SQL(dollar_quote("relay", schema, *(part.as_string() for part in parts.values())))
    values = {**parts, "lock": lock, "body": body}
    return compose(text(name), schema, values).as_string()
