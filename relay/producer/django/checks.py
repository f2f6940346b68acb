"""A check of Django's: the outbox is there, and this login may write to it.

``manage.py check --database default`` runs it, and so does ``manage.py migrate``, before it
migrates. So what a migration mends is a warning.
"""

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as Caution

from relay.producer.django import schema
from relay.producer.django.outbox import look


def outbox_is_there(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Look at each of ``databases`` that is one for the outbox."""
    return [fault for alias in databases or () for fault in _faults(alias)]


def _faults(alias: str) -> list[CheckMessage]:
    found, name = look(alias), schema()
    if found is None or found.may_write:
        return []
    if not found.is_there:
        return [
            Caution(
                f"The database {alias!r} has no outbox in its schema {name!r}.",
                hint=f"Run `manage.py migrate --database {alias}`, or `relay migrate`.",
                id="relay_outbox.W001",
            )
        ]
    return [
        Error(
            f"The login {found.login!r} of the database {alias!r} may not write events.",
            hint=f'Run: grant {name}_producer to "{found.login}";',
            id="relay_outbox.E001",
        )
    ]
