"""The rules by which a stream is compared with what it once was."""

import itertools
import math

import pytest

from relay.core.checkpoint import RING_PLACES, Found, Tip, Verdict, judge, replaced_by

TIP = Tip("S", "monday", 100, "relay-1", sure=True)
UNSURE = Tip("S", "monday", 100, "relay-1", sure=False)
NAMELESS = Tip("S", "monday", 100)
OURS, ANOTHER_OF_OURS = Found("relay-1", "1"), Found("relay-2", "2")
FOREIGN = Found("", "")


@pytest.mark.parametrize(
    ("tip", "created", "last_seq", "found", "verdict"),
    [
        (TIP, "monday", 100, OURS, Verdict.HOLDS),
        (TIP, "monday", 9000, OURS, Verdict.HOLDS),
        (TIP, "monday", 99, None, Verdict.BEHIND),
        (TIP, "monday", 0, None, Verdict.BEHIND),
        # limits, consumers and people delete messages
        (TIP, "monday", 100, None, Verdict.NO_EVIDENCE),
        # the last sequence is as high as before, for others have published since
        (TIP, "monday", 100, FOREIGN, Verdict.BEHIND),
        (TIP, "monday", 100, ANOTHER_OF_OURS, Verdict.BEHIND),
        # a batch on a shared stream: another event of it may be the one at the sequence
        (UNSURE, "monday", 100, ANOTHER_OF_OURS, Verdict.NO_EVIDENCE),
        (UNSURE, "monday", 100, FOREIGN, Verdict.BEHIND),
        (UNSURE, "monday", 99, None, Verdict.BEHIND),
        (NAMELESS, "monday", 100, FOREIGN, Verdict.NO_EVIDENCE),
        (NAMELESS, "monday", 99, None, Verdict.BEHIND),
        # made anew: whatever it holds is another stream's
        (TIP, "tuesday", 99, None, Verdict.REMADE),
        (TIP, "tuesday", 100, FOREIGN, Verdict.REMADE),
    ],
)
def test_a_stream_is_judged_by_its_creation_last_sequence_and_the_message_there(
    tip: Tip, created: str, last_seq: int, found: Found | None, verdict: Verdict
) -> None:
    # R-LOSS
    assert judge(tip, created=created, last_seq=last_seq, found=found) is verdict


def test_the_ring_keeps_few_checkpoints_and_some_of_every_age() -> None:
    ring: set[int] = set()
    for number in range(1, 100_001):
        ring.difference_update(replaced_by(number))
        ring.add(number)
    ages = sorted(100_000 - number for number in ring)
    assert len(ages) <= math.log2(100_000) * RING_PLACES
    assert ages[:5] == [0, 1, 2, 3, 4]
    # each age has a checkpoint that is at most twice as old
    assert all(older <= 2 * younger + 1 for younger, older in itertools.pairwise(ages))
