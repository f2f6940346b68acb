"""Both ends under faults, for some seconds; ``python -m tests.soak.both_ends`` does it for long."""

from pathlib import Path

import pytest

from tests.soak.both_ends import run


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_what_pgbench_moves_in_one_bank_is_moved_once_and_in_order_in_the_other(
    tmp_path: Path,
) -> None:  # R-LOSS R-ONCE R-ORDER R-PHANTOM
    found = run(3, minutes=0.1, kills=100, gap=0.4, rate=150, scale=1, folder=tmp_path)
    assert found["is_clean"], found
    assert found["faults"] >= 5
    assert found["movements"] > 50
