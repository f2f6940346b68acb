"""What is forked from the warm process is what a fresh interpreter would have been."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests import warm
from tests.system.harness import until

RELAY = [sys.executable, "-m", "relay"]
AWAY = {
    "PATH": os.environ["PATH"],
    "PYTHONPATH": str(warm.ROOT),
    "RELAY_POSTGRES_DSN": "host=127.0.0.1 port=1",
}
pytestmark = pytest.mark.skipif(
    not (sys.platform == "linux" and not os.environ.get("RELAY_TEST_FRESH")),
    reason="everything is started fresh",
)


@pytest.mark.parametrize(("args", "code"), [(["--version"], 0), (["status", "--bogus"], 2)])
def test_it_writes_and_exits_like_a_fresh_one(tmp_path: Path, args: list[str], code: int) -> None:
    forked = warm.run([*RELAY, *args], env=AWAY, cwd=tmp_path)
    fresh = subprocess.run(
        [*RELAY, *args], env=AWAY, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (forked.returncode, forked.stdout, forked.stderr) == (code, fresh.stdout, fresh.stderr)


def test_a_test_s_own_environment_is_no_reason_for_a_fresh_one() -> None:
    env = {**os.environ, **AWAY}
    with warm.Popen([*RELAY, "status", "--watch"], env=env, stderr=subprocess.DEVNULL) as process:
        assert b"tests.warm" in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.kill()


def test_it_is_a_child_of_the_test_with_a_folder_and_streams_of_its_own(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        process = warm.Popen(
            [*RELAY, "status", "--watch"], env=AWAY, cwd=tmp_path, stdout=log, stderr=log
        )
    try:
        proc = Path(f"/proc/{process.pid}")
        assert b"tests.warm" in (proc / "cmdline").read_bytes()
        assert f"PPid:\t{os.getpid()}\n" in (proc / "status").read_text()
        assert (proc / "cwd").resolve() == tmp_path
        until(lambda: "away" in (tmp_path / "log").read_text(), 30)
        opened = list[str]()
        for each in (proc / "fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                opened.append(str(each.readlink()))
        assert opened.count(str(tmp_path / "log")) == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "options",
    [
        {"env": AWAY | {"PYTHONDEVMODE": "1"}},
        {"env": AWAY | {"PYTHONPATH": "/elsewhere"}},
        {"env": AWAY | {"OTEL_SDK_DISABLED": "true"}},
        {"env": AWAY, "start_new_session": True},
    ],
)
def test_where_it_could_differ_an_interpreter_is_started(options: dict[str, object]) -> None:
    with warm.Popen([*RELAY, "--version"], stdout=subprocess.DEVNULL, **options) as process:
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert b"tests.warm" not in command
        process.kill()
