"""``relay dead retry --key``: a key's dead events go back to their place, as far as it is free.

    look ──► say which later events were published ──► retry, due in PAUSE ──► look again, say

The relay that leads looks at the parked once a second, and from then on holds back the key. What it
has published of the key until then is settled before PAUSE is over, so the second look names every
event that came before the dead ones, and no other.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import anyio
import typer

from relay.cli.text import counted, plain
from relay.settings import Settings

if TYPE_CHECKING:
    from relay.postgres.operating import Later
    from relay.postgres.operator import Found

PAUSE: Final = 3.0
"""s from the decision until the events are due: a look, its deadline, and a settlement."""

_NAMED: Final = 20
"""Ids that are named on a line; JSON has all."""


@dataclass(slots=True)
class InSequence:
    """One key's decision. ``first_id`` is the id of its first dead event."""

    settings: Settings
    key: str
    first_id: int
    later: "Later"

    def look_again(self) -> None:
        """Look when the relay holds the key back, and the events are not due yet."""
        self.later = anyio.run(_look, self.settings, self.key, self.first_id, PAUSE * 0.9)

    def say(self) -> None:
        """Name what was published before the dead events, and what waits."""
        key, published, waiting = plain(self.key), self.later.published, self.later.waiting
        more = " or more" * self.later.is_cut
        if published:
            shown = ", ".join(map(str, published[:_NAMED])) + ", …" * (len(published) > _NAMED)
            what = counted(len(published), "later event") + more
            typer.echo(f"key {key}: {what} published before them: {shown}", err=True)
        typer.echo(
            f"key {key}: {counted(len(waiting), 'later event')}{more} wait for them", err=True
        )

    def as_json(self) -> dict[str, Any]:
        """Return ``published`` and ``waiting``, ids each; ``is_cut`` if there are more."""
        return asdict(self.later)


def in_sequence(
    settings: Settings, found: "Found", filters: Mapping[str, Any]
) -> InSequence | None:
    """Return the decision if one key was named, and has dead events."""
    if "key" not in filters or not found.events:
        return None
    key, first_id = filters["key"], found.events[0].id
    return InSequence(settings, key, first_id, anyio.run(_look, settings, key, first_id, 0.0))


async def _look(settings: Settings, key: str, first_id: int, pause: float) -> "Later":
    """Look which later events of the key are published, ``pause`` s from now if a relay leads."""
    from relay.postgres.operating import later, operator_session
    from relay.postgres.status import status

    schema = settings.schema_name
    async with operator_session(settings.conninfo, schema) as session:
        if pause and (await status(session, schema))["led"]:
            await anyio.sleep(pause)
        return await later(session, schema, key, first_id)
