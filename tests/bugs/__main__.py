"""Run the tests against every seeded bug: ``python -m tests.bugs``, or some: ``... settle ack``.

    copy of the tree ──no change──► the tests pass        or what they say about a bug means nothing
                     ──one bug────► a test fails          caught, and by which
                                    all pass              missed: exit 1

A bug that stops the tests from being collected, or that hangs for longer than ``PATIENCE``, counts
as missed: it is a bad seed. Only Postgres 18 is used. Several bugs are tried at the same time, each
in a copy of its own: a run mostly waits.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from tests.bugs.bug import USUAL, Bug
from tests.bugs.catalogue import BUGS, PROMISES

TOP = Path(__file__).parents[2]
PATIENCE = 600.0
TESTS_FAILED = 1
WARM = Path(__file__).with_name("warm.py").relative_to(TOP)
_LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis")


def main() -> int:
    """Run the chosen bugs; 0 if the tests pass without and fail with each of them."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bugs", description=__doc__.split("\n")[0]
    )
    parser.add_argument("words", nargs="*", help="only bugs whose name holds one of these")
    parser.add_argument("--no-control", action="store_true", help="skip the run without a bug")
    parser.add_argument("--workers", type=int, default=4, help="how many bugs at the same time")
    parser.add_argument("--promises", action="store_true", help="only in what keeps the promises")
    chosen = parser.parse_args()
    known = PROMISES if chosen.promises else BUGS
    bugs = [bug for bug in known if not chosen.words or any(w in bug.name for w in chosen.words)]
    if not bugs:
        parser.error(f"no bug's name holds any of {chosen.words}")
    with _trees(min(chosen.workers, len(bugs))) as trees:
        if not chosen.no_control and not _control(trees[0], bugs, len(trees)):
            return 1
        free = SimpleQueue[Runner]()
        runners = [Runner(tree) for tree in trees]
        for runner in runners:
            free.put(runner)

        def caught(bug: Bug) -> bool:
            runner = free.get()
            try:
                return _caught(runner, bug)
            finally:
                free.put(runner)

        with ThreadPoolExecutor(len(trees)) as pool:
            missed = [
                bug.name for bug, each in zip(bugs, pool.map(caught, bugs), strict=True) if not each
            ]
        for runner in runners:
            runner.end()
    for name in missed:
        print(f"missed: {name}")  # noqa: T201
    print(f"\n{len(bugs) - len(missed)} of {len(bugs)} seeded bugs caught")  # noqa: T201 - a command
    return 1 if missed else 0


@contextmanager
def _trees(count: int) -> Iterator[list[Path]]:
    with tempfile.TemporaryDirectory(prefix="relay-bugs-") as folder:
        trees = [Path(folder) / f"tree-{number}" for number in range(count)]
        for tree in trees:
            shutil.copytree(TOP, tree, ignore=_LEFT_OUT)
        yield trees


def _control(tree: Path, bugs: Sequence[Bug], workers: int) -> bool:
    tests = dict.fromkeys(test for bug in bugs for test in bug.tests)
    runner = Runner(tree)
    code, output, seconds = runner.run(("-n", str(workers), "--dist", "loadscope", *tests))
    runner.end()
    _say("no bug", "all tests pass" if code == 0 else f"exit {code}", seconds)
    if code != 0:
        print(output)  # noqa: T201 - a command
    return code == 0


def _caught(runner: "Runner", bug: Bug) -> bool:
    """Seed the bug, run its tests, and take it out again."""
    file = runner.tree / bug.path
    right = file.read_text(encoding="utf-8")
    file.write_text(seeded(right, bug), encoding="utf-8")
    try:
        code, output, seconds = runner.run(bug.tests, bug.patience)
    finally:
        file.write_text(right, encoding="utf-8")
    if code == TESTS_FAILED:
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
        _say(bug.name, f"caught by {failed[1] if failed else '?'}", seconds)
        return True
    _say(bug.name, "MISSED" if code == 0 else f"MISSED: pytest's exit code is {code}", seconds)
    if code != 0:
        print(output[-3000:])  # noqa: T201
    return False


def seeded(text: str, bug: Bug) -> str:
    """Put the bug into its file's ``text``.

    Raises:
        ValueError: the place is not there exactly once: the code has moved on, the bug has to.
    """
    if text.count(bug.right) != 1:
        raise ValueError(f"{bug.path}: {text.count(bug.right)} places for the bug {bug.name!r}")
    return text.replace(bug.right, bug.wrong)


class Runner:
    """Runs tests in one tree, each time in a new process that starts warm (``warm.py``)."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self._output = tree / "output"
        self._process: subprocess.Popen[str] | None = None

    def run(self, tests: Sequence[str], patience: int = USUAL) -> tuple[int, str, float]:
        """Return pytest's exit code, what it said, and the seconds it took."""
        began = time.monotonic()
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        hung = threading.Timer(PATIENCE, os.killpg, (process.pid, signal.SIGKILL))
        hung.start()
        order = {"tests": tests, "output": str(self._output), "patience": patience}
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        hung.cancel()
        if not answer:
            self.end()
        said = self._output.read_text(encoding="utf-8", errors="replace")
        return int(answer or -1), said, time.monotonic() - began

    def end(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            with self._process as process:
                process.terminate()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.tree),
            "RELAY_TEST_POSTGRES": "18",
            "RELAY_TEST_UNSHRUNK": "1",
        }
        environment.pop("RELAY_TEST_REQUIRE", None)
        return subprocess.Popen(
            [sys.executable, "-P", WARM],
            cwd=self.tree,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def _say(name: str, what: str, seconds: float) -> None:
    print(f"{name:<60} {what} ({seconds:.0f} s)", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
