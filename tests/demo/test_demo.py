"""The demo as a newcomer runs it: one command, and nothing is left of it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from relay.devstack.sandbox import wait_until

NUMBERS = {
    "committed",
    "stored",
    "lost",
    "duplicates",
    "phantoms",
    "reordered",
    "corrupt",
    "latency_ms",
    "events_per_second",
}


@pytest.fixture
def place():
    """A folder for all temporary files, which any user may enter: Postgres runs as another one."""
    with tempfile.TemporaryDirectory(prefix="demo-test-") as folder:
        path = Path(folder)
        path.chmod(0o711)
        yield path


def start(place, *arguments):
    environment = {**os.environ, "TMPDIR": str(place), "RELAY_SCHEMA": "not_for_the_demo"}
    return subprocess.Popen(
        [sys.executable, "-m", "relay", "demo", "--json", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_of(place):
    """The command line of every process that was told of the folder, there or by environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            told = command + (process / "environ").read_bytes()
        except OSError:  # gone, or not ours
            continue
        if str(place).encode() in told:
            found.append(command)
    return found


def is_producing(place):
    return any(b"relay.demo.producer" in command for command in processes_of(place))


def assert_nothing_is_left(place):
    assert wait_until(lambda: not processes_of(place), time.monotonic() + 10)
    assert wait_until(lambda: not list(place.iterdir()), time.monotonic() + 10)


def test_every_committed_event_is_in_the_stream_once_and_nothing_is_left(place):
    with start(place, "--events", "300", "--rate", "1000") as demo:
        out, err = demo.communicate(timeout=120)
    assert demo.returncode == 0, err
    result = json.loads(out.splitlines()[-1])
    assert set(result) == NUMBERS
    assert result["committed"] == result["stored"] == 300
    assert [result[fault] for fault in ("lost", "duplicates", "phantoms", "reordered")] == [0] * 4
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p99"]
    assert result["events_per_second"] > 0
    assert_nothing_is_left(place)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_workload_and_the_rest_is_judged(place, number):
    with start(place) as demo:
        # A producer is at work: the workload has begun.
        assert wait_until(lambda: is_producing(place), time.monotonic() + 60)
        demo.send_signal(number)
        out, err = demo.communicate(timeout=60)
    result = json.loads(out.splitlines()[-1])
    assert demo.returncode == (0 if result["committed"] else 1), err
    assert result["committed"] == result["stored"]
    assert_nothing_is_left(place)


@pytest.mark.slow
def test_on_a_terminal_its_figures_are_shown_while_it_runs(place):
    ours, its = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "relay", "demo", "--events", "300"],
        env={**os.environ, "TMPDIR": str(place), "TERM": "xterm", "COLUMNS": "120"},
        stdout=its,
        stderr=its,
    ) as demo:
        os.close(its)
        shown = read_terminal(ours)
    assert demo.returncode == 0, shown
    for figure in ("events committed", "stored in the stream", "lag", "rate", "latency p99"):
        assert figure in shown
    assert "wake-ups by bell" in shown
    assert "wake-ups by poll" in shown
    assert "Every committed event is in the stream exactly once" in shown
    assert_nothing_is_left(place)


def read_terminal(terminal):
    """Everything that is written to a terminal until nobody holds it any more."""
    parts = []
    with contextlib.suppress(OSError):  # Linux: the other end is closed
        while part := os.read(terminal, 65536):
            parts.append(part)
    os.close(terminal)
    return b"".join(parts).decode()


@pytest.mark.slow
def test_nothing_is_left_of_a_demo_that_was_killed(place):
    with start(place) as demo:
        assert wait_until(lambda: is_producing(place), time.monotonic() + 60)
        demo.kill()
        demo.communicate(timeout=60)
    assert_nothing_is_left(place)
