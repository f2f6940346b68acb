"""Models of both sides of reconciling: ``relay.checkpoints`` over a list and a list of messages."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from anyio.lowlevel import checkpoint

from relay.checkpoints import Before
from relay.core.checkpoint import Checkpoint, Setback, Tip, Verdict, judge
from relay.core.event import Event
from relay.core.outcome import Stored
from relay.errors import StreamBehind
from relay.ports import Settlement


class MemoryCheckpoints:
    """The store's side; it lives as long as the outbox.

    Attributes:
        kept: every checkpoint, the oldest first.
        until: how far the cursor was when the repair began; 0 while there is none.
        repaired_events, remembered: what was counted.
    """

    def __init__(self, go_back: Callable[[int], int], delivered: Callable[[int], set[int]]) -> None:
        """Move the cursor by ``go_back``, which ends the term and returns where it was."""
        self.kept: list[Checkpoint] = []
        self.repairing: Collection[str] = ()
        self.until = 0
        self.repaired_events = self.remembered = 0
        self._go_back = go_back
        self._delivered = delivered

    def settle(self, done: Settlement, position: int) -> None:
        """Keep a checkpoint of each tip."""
        for tip in done.tips:
            self.kept.append(Checkpoint(tip, len(self.kept) + 1, position, done.top_id))

    async def newest(self) -> Sequence[Tip]:
        """Return the newest tip of each stream."""
        await checkpoint()
        return list({each.tip.stream: each.tip for each in self.kept}.values())

    async def ring(self, streams: Collection[str]) -> Mapping[str, Sequence[Checkpoint]]:
        """Return the checkpoints of ``streams``, the newest first."""
        await checkpoint()
        return {
            stream: [each for each in reversed(self.kept) if each.tip.stream == stream]
            for stream in streams
        }

    async def rewind(self, held: Mapping[str, Checkpoint]) -> Sequence[Setback]:
        """Go back to the earliest of ``held``."""
        await checkpoint()
        back = min(held.values(), key=_place)
        top_id = self.kept[-1].top_id
        was = self._go_back(_place(back))
        self.until, self.repairing = max(self.until, was), {*self.repairing, *held}
        self.kept = [
            each
            for each in self.kept
            if each.tip.stream not in held or _place(each) <= _place(back)
        ]
        return [Setback(stream, back.tip.seq, back.top_id, top_id) for stream in held]

    async def delivered(self, ids: Collection[int]) -> Mapping[int, Before]:
        """Return those of ``ids`` delivered before the repair began."""
        await checkpoint()
        return dict.fromkeys(
            self._delivered(self.until) & set(ids), Before(parked=False, stored=True)
        )

    async def repaired(self, events: int, remembered: int, *, over: bool) -> None:
        """Count; end the repair."""
        await checkpoint()
        self.repaired_events += events
        self.remembered += remembered
        if over:
            self.until, self.repairing = 0, ()


def _place(each: Checkpoint) -> int:
    place = each.position or 0
    assert isinstance(place, int)
    return place


class MemoryReconciling:
    """The bus's side: one stream, a list of messages."""

    def __init__(self, stream: str, look: Callable[[], Sequence[tuple[int, str, str]]]) -> None:
        """``look`` returns (sequence, message id, event id) of every message."""
        self._stream = stream
        self._look = look
        self._tip: Tip | None = None
        self._stored: set[str] = set()
        self._delivered: Collection[int] = ()
        self._taken: Tip | None = None
        self._compared = False
        self._repaired = 0

    def resume(self, tips: Sequence[Tip], repairing: Collection[str]) -> None:
        """Begin a term with what is settled."""
        del repairing
        self._tip = self._taken = next((tip for tip in tips if tip.stream == self._stream), None)
        self._stored, self._delivered, self._compared = set(), (), False

    def connected(self) -> None:
        """Compare before anything is published on a new connection; raises StreamBehind."""
        if self._compared:
            return
        messages = self._look()
        last_seq = messages[-1][0] if messages else 0
        tip = self._tip = self._tip or Tip(self._stream, "", last_seq, after=last_seq)
        if judge(tip, created="", last_seq=last_seq, found=None) is Verdict.BEHIND:
            raise StreamBehind([self._stream])
        self._stored |= {event_id for seq, _, event_id in messages if seq > tip.after}
        self._compared = True

    def dropped(self) -> None:
        """The connection is gone."""
        self._compared = False

    def known(self, event: Event) -> Stored | None:
        """Say whether ``event`` stands in the stream behind the tip."""
        if event.event_id in self._stored:
            return Stored(self._stream, sent=False)
        if event.id in self._delivered:
            self._repaired += 1
        return None

    def tips(self, *, caught_up: bool = False) -> Sequence[Tip]:
        """Return the tip if it has moved."""
        if caught_up:
            self._stored = set()
        messages = self._look()
        if messages and self._tip is not None and self._compared:
            seq, message_id, _ = messages[-1]
            after = self._tip.after if self._stored else seq
            tip = replace(self._tip, seq=seq, message_id=message_id, sure=True, after=after)
            self._tip = tip
        if self._tip is None or self._tip == self._taken:
            return ()
        self._taken = self._tip
        return [self._tip]

    async def held(self, stream: str, ring: Sequence[Checkpoint]) -> Checkpoint:
        """Return the newest checkpoint that the stream still holds."""
        await checkpoint()
        messages = self._look()
        last_seq = messages[-1][0] if messages else 0
        nothing = Checkpoint(Tip(stream, "", 0))
        return next((each for each in ring if each.tip.seq <= last_seq), nothing)

    def accept(self) -> None:
        """Take the stream for what it is now."""
        self._tip = None

    def pass_over(self, ids: Collection[int]) -> None:
        """Count these events as published again."""
        self._delivered = frozenset(ids)

    def repaired(self) -> tuple[int, int]:
        """Count, since asked last, events published again."""
        count, self._repaired = self._repaired, 0
        return count, 0
