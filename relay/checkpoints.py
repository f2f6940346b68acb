"""The two narrow ports of reconciling: what the engine asks of the store, and of the bus.

    store   Checkpoints    the ring of checkpoints, and going back to one of them
    bus     Reconciling    compares the streams with them, and knows what of ours they hold

What raises what is as in ``relay.ports``. ``relay.engine.reconcile`` says how they go together.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from relay.core.checkpoint import Checkpoint, Setback, Tip


class Before(NamedTuple):
    """An event that the cursor had passed before a repair began.

    Attributes:
        parked: it is parked now: its page does not publish it.
        stored: a stream had it.
    """

    parked: bool
    stored: bool


class Checkpoints(Protocol):
    """The checkpoints as the leader of one term sees them; ``OutboxStore.settle`` writes them.

    Attributes:
        repairing: the streams that have lost events, as the term begins.
    """

    repairing: Collection[str]

    async def newest(self) -> Sequence[Tip]:
        """Return the newest tip of each stream. To be called first, once a term."""

    async def ring(self, streams: Collection[str]) -> Mapping[str, Sequence[Checkpoint]]:
        """Return the checkpoints of ``streams``, the newest first."""

    async def rewind(self, held: Mapping[str, Checkpoint]) -> Sequence[Setback]:
        """Go back to the earliest of what streams that lost messages still hold; end the term.

        One without a position: the stream holds none of its checkpoints, so all that the outbox has
        is published again.

        Raises:
            TermLost: another term has begun; nothing is changed.
        """

    async def delivered(self, ids: Collection[int]) -> Mapping[int, Before]:
        """Return those of ``ids`` that the cursor had passed before the repair began."""

    async def repaired(self, events: int, remembered: int, *, over: bool) -> None:
        """Count events published again, and those that were not stored again; end the repair."""


class Reconciling(Protocol):
    """The streams compared with what they once held.

    Guarantees:
        * On a new connection nothing is published before each stream that has a tip was compared
          with it. ``StreamBehind`` says which ones have lost messages, again and again until
          ``accept`` or the term's end.
        * An event that stands behind the tip of its stream counts as Stored and is not sent.
    """

    def resume(self, tips: Sequence[Tip], repairing: Collection[str]) -> None:
        """Begin a term with what the settled checkpoints say, and nothing else."""

    def tips(self, *, caught_up: bool = False) -> Sequence[Tip]:
        """Return the tips that have moved since this was asked last.

        With ``caught_up`` nothing that an earlier term may have stored is still to be published.
        """

    async def held(self, stream: str, ring: Sequence[Checkpoint]) -> Checkpoint:
        """Return the newest of a stream's checkpoints that it still holds.

        If it holds none, one of the stream as it is now, at sequence 0 and without a position.

        Raises:
            BusOutage: nobody can say.
        """

    def accept(self) -> None:
        """Take the streams that are behind for what they are now."""

    def pass_over(self, ids: Collection[int]) -> None:
        """Take these events for stored, but those that go to a stream that is being repaired."""

    def repaired(self) -> tuple[int, int]:
        """Count, since asked last, events published again, and those that were not stored again."""
