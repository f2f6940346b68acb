"""Where the relay stands in the outbox: the snapshot cursor (the method of PgQ).

``id`` order is not commit order, so "id > last" loses events. The cursor is a snapshot instead:
everything that ``base`` sees has been read. What is new since is read in one of two modes:

    small    target is None    all that is new fits one page; then that read's snapshot is the base
    window   target is set     too much for one page: all that became visible between base and
                               target is paged through by id; when the pages end, base = target

Snapshots are text here, as Postgres prints them (``xmin:xmax:xip,...``); only Postgres reads them.
"""

from dataclasses import dataclass, replace

BEGINNING = "1:1:"
"""The snapshot that sees no transaction at all: everything is new."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place between two events.

    Attributes:
        base: everything it sees has been read.
        target: the window's end, or None outside a window.
        last_id: the last id read of the window; 0 outside one.
    """

    base: str = BEGINNING
    target: str | None = None
    last_id: int = 0

    def begin_window(self, target: str, first_id: int) -> "Position":
        """Return the place before the first event of the window up to ``target``."""
        return Position(self.base, target, first_id - 1)

    def advance(self, last_id: int) -> "Position":
        """Return the place behind ``last_id``, within the window."""
        return replace(self, last_id=last_id)

    def end_window(self) -> "Position":
        """Return the place behind the window."""
        assert self.target is not None
        return Position(self.target)
