"""The soak: its schedule comes from the seed alone, and a short one of it runs with every suite."""

import collections
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.soak.faults import FAULTS
from tests.soak.schedule import KINDS, MEAN_GAP, ROUND, plan
from tests.soak.watch import Sample, trend

seeds = st.integers(0, 10**6)
MINUTES = 20 / 60
SEED = 4
ROOT = Path(__file__).parents[1]


@given(seeds, st.integers(0, 100))
def test_the_same_seed_and_round_give_the_same_faults(seed, number):
    assert plan(seed, number) == plan(seed, number)


@given(seeds, st.floats(1, ROUND))
def test_a_shorter_round_has_the_same_faults_up_to_its_end(seed, seconds):
    assert plan(seed, 3, seconds) == [fault for fault in plan(seed, 3) if fault.at < seconds]


def test_another_seed_and_another_round_give_other_faults():
    assert plan(1, 0) != plan(2, 0)
    assert plan(1, 0) != plan(1, 1)


def test_faults_are_as_far_apart_as_said_and_every_kind_comes():
    faults = [fault for number in range(200) for fault in plan(5, number)]
    assert len(faults) * MEAN_GAP == pytest.approx(200 * ROUND, rel=0.1)
    assert set(collections.Counter(fault.kind for fault in faults)) == set(KINDS)


def test_every_kind_in_the_schedule_can_be_inflicted():
    assert set(KINDS) == set(FAULTS)


def test_a_planned_fault_can_be_written_down():
    for fault in plan(11, 0):
        assert json.loads(json.dumps(dict(fault.params))) == fault.params


def test_a_trend_compares_the_medians_of_the_first_and_the_last_quartile():
    grown = [Sample(at=float(at), rss=100 + at, files=10) for at in range(46)]
    found = trend(grown)
    assert found is not None
    assert found.samples == 40  # the first five seconds are left out
    assert (found.rss_first, found.rss_last, found.rss_most) == (110.5, 140.5, 145)
    assert (found.files_first, found.files_last) == (10, 10)
    assert trend(grown[:8]) is None


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_short_soak_loses_repeats_and_reorders_nothing(tmp_path: Path):
    command = [sys.executable, "-m", "tests.soak", "--json", "--keep", str(tmp_path)]
    done = subprocess.run(
        [*command, "--minutes", str(MINUTES), "--seed", str(SEED)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["is_clean"]
    assert report["faults"] >= 3, report
    assert report["committed"] > 500
