"""The promises under everything that can happen; RELAY_TEST_EXAMPLES=5000 draws more, by chance."""
# R-LOSS, R-PHANTOM, R-ORDER, R-ONCE, R-TERM, R-FATE, R-BOUND

import os

import hypothesis
import pytest
from hypothesis import Phase
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Machine

# To know that a failure is there, without the minutes it takes to find its shortest story.
UNSHRUNK = "RELAY_TEST_UNSHRUNK" in os.environ
EXAMPLES = int(os.environ.get("RELAY_TEST_EXAMPLES", "1500" if UNSHRUNK else "400"))
SOME = 30
"""For `make test`: some seconds, without the deeper stories."""
PHASES = (Phase.generate,) if UNSHRUNK else tuple(Phase)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "examples", [SOME, pytest.param(EXAMPLES, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_the_promises_hold_whatever_breaks_and_all_is_delivered_once_it_is_mended(
    examples: int,
) -> None:
    run_state_machine_as_test(
        Machine,
        settings=hypothesis.settings(
            max_examples=examples,
            stateful_step_count=25,
            database=None,
            phases=PHASES,
            suppress_health_check=[hypothesis.HealthCheck.too_slow],
            derandomize="RELAY_TEST_EXAMPLES" not in os.environ,
        ),
    )
