"""Failpoints: what the variable may say; each action happens at its visit and not before."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import relay.failpoints
from relay.errors import SettingsError
from relay.settings import Settings
from tests import failpoints

unarmed = relay.failpoints.reach
ROOT = Path(__file__).parents[1]
VISITS = """
import os
from tests import failpoints
failpoints.arm(os.environ["RELAY_FAILPOINTS"])
from relay.failpoints import PLACES, reach
for visit in range(3):
    for place in PLACES:
        print(visit + 1, place, flush=True)
        reach(place)
print("through", flush=True)
"""


def visited(value: str) -> "subprocess.CompletedProcess[str]":
    """Reach every place three times in a process of its own; it prints where it is about to be."""
    return subprocess.run(
        [sys.executable, "-c", VISITS],
        env={"PYTHONPATH": str(ROOT), "RELAY_FAILPOINTS": value},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_without_the_variable_reach_does_nothing():
    assert failpoints.VARIABLE not in os.environ
    failpoints.arm("")
    assert relay.failpoints.reach is unarmed
    done = visited("")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_value_names_places_actions_and_visits():
    assert failpoints.parse(" after-read=kill:3, before-settle=stop,") == {
        "after read": ("kill", 3),
        "before settle": ("stop", 1),
    }
    assert failpoints.parse("") == {}


@pytest.mark.parametrize("place", failpoints.PLACES)
def test_every_place_can_be_named(place):
    assert failpoints.parse(f"{place.replace(' ', '-')}=exit:12") == {place: ("exit", 12)}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("after-reed=kill", "'after-reed=kill' names no place: write one of after-read,"),
        ("after-read", "'after-read' names no action: write one of kill, stop, exit"),
        ("after-read=die", "'after-read=die' names no action"),
        ("after-read=kill:", "needs the number of a visit behind the colon: 1 or more"),
        ("after-read=kill:0", "needs the number of a visit"),
        ("after-read=kill:²", "needs the number of a visit"),
        ("after-read=kill,after-read=stop:2", "has an action already: keep one of them"),
    ],
)
def test_a_part_that_cannot_be_read_is_named_with_its_remedy(value, says):
    with pytest.raises(SettingsError) as caught:
        failpoints.parse(value)
    (fault,) = caught.value.faults
    assert fault.startswith("RELAY_FAILPOINTS (environment): ")
    assert says in fault


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_as_a_setting(text):
    try:
        armed = failpoints.parse(text)
    except SettingsError:
        return
    assert set(armed) <= set(failpoints.PLACES)


@pytest.mark.parametrize(("action", "code"), [("kill", -signal.SIGKILL), ("exit", 70)])
def test_the_process_ends_at_the_visit_that_was_asked_for(action, code):
    done = visited(f"before-ack={action}:2,after-settle={action}:3")
    assert done.returncode == code
    assert done.stdout.splitlines()[-1] == "2 before ack"


def test_a_stopped_process_goes_on_behind_the_place_when_it_is_continued():
    process = subprocess.Popen(
        [sys.executable, "-c", VISITS],
        env={"PYTHONPATH": str(ROOT), "RELAY_FAILPOINTS": "after-send=stop:2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert out.splitlines()[-1] == "through"


def test_a_warning_names_what_is_on():
    done = visited("before-settle=kill:7")
    assert done.returncode == 0
    assert "failpoints are on" in done.stderr


def test_the_variable_is_no_misspelt_setting():
    assert Settings.load({}, {"RELAY_FAILPOINTS": "after-read=kill"}).warnings == ()


def test_a_relay_with_a_value_that_cannot_be_read_does_not_start():
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.failpoints",
            "run",
            "--postgres-dsn",
            "host=127.0.0.1 port=1",
        ],
        env={
            "PYTHONPATH": str(ROOT),
            "RELAY_FAILPOINTS": "before-settel=kill",
            "RELAY_LOG_FORMAT": "text",
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("relay: RELAY_FAILPOINTS (environment): 'before-settel=kill'")
    assert len(done.stderr.splitlines()) == 1
