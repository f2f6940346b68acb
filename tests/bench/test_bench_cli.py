"""``python -m bench``: the smallest scenario with real servers, a peer, an interruption."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from bench import contest
from bench.ours import Ours
from bench.peers.base import UnavailableError
from bench.processes import python, running
from bench.scenario import Bench
from bench.scenarios import SCENARIOS
from bench.scenarios.peers import UNITS, Entrant, attempt, enter, told
from bench.skiplocked import SkipLockedQueue
from bench.stack import Stack, stack


class Absent(SkipLockedQueue):
    name = "absent"

    def install(self) -> str:
        raise UnavailableError("there is no wheel of it")


class Broken(SkipLockedQueue):
    name = "broken"

    def command(self, *_: str) -> list[str]:
        return [sys.executable, "-c", "raise SystemExit('no such thing')"]


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    with stack({"wal_level": "logical", "fsync": "off"}) as both:
        yield both


def run_bench(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*python("bench", "--out", out, "--runs", "1", "--scale", "0.001"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_a_scenario_is_measured_and_reported(tmp_path: Path) -> None:
    done = run_bench(tmp_path, "--scenario", "steady", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == json.loads((tmp_path / "report.json").read_text())
    names = [figure["name"] for figure in found["figures"]]
    assert len(names) == 8
    assert all(name.startswith("steady: 8 producers, ") for name in names)
    assert {"cores", "cpu", "postgres", "nats_server", "commit"} <= found["machine"].keys()
    assert "## steady" in (tmp_path / "report.md").read_text()


def test_an_unknown_scenario_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    done = run_bench(tmp_path, "--scenario", "speed")
    assert done.returncode == 2
    assert "drain" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter: run by root, Postgres is somebody else."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.slow
def test_an_interruption_ends_all_that_it_started(tmp_path: Path, open_folder: Path) -> None:
    command = python("bench", "--scenario", "steady", "--out", tmp_path / "out")
    environment = {**os.environ, "TMPDIR": str(open_folder)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while not processes_with("bench.subject", open_folder):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert not processes_with("", open_folder)
    assert not list(open_folder.glob("relay-*"))


def processes_with(words: str, folder: Path) -> list[str]:
    """Command lines that hold ``words``, of processes whose TMPDIR is ``folder``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if f"TMPDIR={folder}".encode() in (process / "environ").read_bytes():
                found += [command] if words in command else []
        except OSError:
            continue
    return found


def test_a_child_that_fails_says_why() -> None:
    with (
        running([sys.executable, "-c", "raise SystemExit('no such thing')"]) as child,
        pytest.raises(RuntimeError, match="no such thing"),
    ):
        child.ready()


@pytest.mark.slow
def test_everybody_is_measured_by_the_same_code(servers: Stack) -> None:
    for peer in (Ours(notify=False), SkipLockedQueue()):
        assert contest.drain(servers, peer, 500) > 100
    delays = contest.latency(servers, Ours(), 100, 0.5, samples=True)
    assert len(delays.stored) == len(delays.acked) == 50
    pairs = zip(delays.stored, delays.acked, strict=True)
    assert all(-1 < stored < acked < 10 for stored, acked in pairs)


def test_a_peer_that_is_absent_or_broken_is_a_row_of_the_report(servers: Stack) -> None:
    bench = Bench(servers, 1, 0.001, lambda _: None, lambda _: None)
    entrants = [Entrant(Ours()), Entrant(Absent()), Entrant(Broken())]
    for entrant in entrants:
        attempt(entrant, partial(enter, servers, bench))
    findings = told(entrants, 1)
    (table,) = findings.tables
    here = {row[0]: row[-1] for row in table.rows}
    assert here["absent"] == "not available: there is no wheel of it"
    assert "no such thing" in here["broken"]
    assert here["this relay"].startswith("measured")


def test_ours_is_judged_by_the_best_of_the_others() -> None:
    ours, other, third = Entrant(Ours()), Entrant(SkipLockedQueue()), Entrant(SkipLockedQueue())
    for entrant, rate in ((ours, 30.0), (other, 2.0), (third, 3.0)):
        for key in UNITS:
            entrant.values[key] = [rate]
    other.values["bare"] = [10.0]  # its tables leave a fifth of them: it notifies on each commit
    judged = {figure.name: figure for figure in told([ours, other, third], 1).figures}
    assert judged["peers: ours to the fastest: drain"].values == (10.0,)
    assert judged["peers: the quickest to ours: commit to stored, p50 at 200/s"].met is False
    assert judged["peers: ours to the best that notifies always: commits, delivering"].values == (
        15.0,
    )


def test_each_scenario_has_a_name_of_its_own() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
