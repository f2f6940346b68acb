"""Compares streams with all their checkpoints for a person, over a connection of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from relay.core.checkpoint import Checkpoint
from relay.errors import BusOutage
from relay.jetstream.api import Api, DeniedError, NoAnswerError, RejectedError
from relay.jetstream.codes import STREAM_NOT_FOUND
from relay.jetstream.options import BusOptions
from relay.jetstream.reconcile import scan
from relay.jetstream.setup import asking

HOLDS = "holds"
BEHIND = "behind"
REMADE = "made anew"
MISSING = "missing"
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at one stream found.

    Attributes:
        stream: its name.
        state: HOLDS, BEHIND, REMADE, MISSING or UNKNOWN.
        last_seq: its last sequence; None if it could not be asked.
        newest: its newest checkpoint.
        held: of a stream that is behind, the newest checkpoint that it still holds; see ``scan``.
        reason: why it is UNKNOWN.
    """

    stream: str
    state: str
    last_seq: int | None
    newest: Checkpoint
    held: Checkpoint | None = None
    reason: str = ""


async def examine(
    options: BusOptions, ring: Mapping[str, Sequence[Checkpoint]]
) -> Sequence[Finding]:
    """Compare each stream with all of its checkpoints, the newest first in ``ring``.

    Raises:
        BusOutage, SettingsError: as ``JetStreamBus.connect``.
    """
    seconds = options.ack_timeout
    try:
        async with asking(options) as api:
            return [await _examine(api, name, each, seconds) for name, each in ring.items()]
    except BusOutage as why:
        raise BusOutage(f"NATS is away: {why}") from why


async def _examine(api: Api, stream: str, ring: Sequence[Checkpoint], seconds: float) -> Finding:
    newest, last_seq = ring[0], None
    try:
        info = await api.stream_info(stream, seconds)
        last_seq = info.state["last_seq"]
        if info.created != newest.tip.created and not info.made_by_relay:
            return Finding(stream, REMADE, last_seq, newest)
        contradicted, held = await scan(api, info, ring)
    except RejectedError as no:
        if no.code == STREAM_NOT_FOUND:
            return Finding(stream, MISSING, None, newest)
        return Finding(stream, UNKNOWN, last_seq, newest, reason=str(no))
    except (DeniedError, NoAnswerError, BusOutage) as why:
        return Finding(stream, UNKNOWN, last_seq, newest, reason=str(why))
    if not contradicted:
        return Finding(stream, HOLDS, last_seq, newest)
    return Finding(stream, BEHIND, last_seq, newest, held)
