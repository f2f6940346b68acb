"""However it ends, nothing is left: no process, no file, no right or owner changed elsewhere."""

import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relay import devstack
from relay.devstack import identity, port
from relay.devstack.nest import Nest, wait_until
from relay.devstack.reaper import runs

HOLD = """
import threading
from relay import devstack
with devstack.postgres() as pg, devstack.nats_server() as nats:
    print(pg.pid, nats.pid, pg.log_path.parent, nats.log_path.parent, flush=True)
    threading.Event().wait()
"""
REPOSITORY = Path(__file__).parents[2]


def within(seconds, fact):
    return wait_until(fact, time.monotonic() + seconds)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_servers_and_folders_go_with_their_parent(number):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        *pids, first, second = parent.stdout.readline().split()
        assert all(runs(int(pid)) for pid in pids)
        parent.send_signal(number)
    assert within(10, lambda: not any(runs(int(pid)) for pid in pids))
    assert within(10, lambda: not Path(first).exists() and not Path(second).exists())


def test_an_exception_ends_the_server_and_removes_its_folder():
    def break_off():
        with devstack.nats_server() as server:
            seen.update(pid=server.pid, folder=server.log_path.parent)
            assert seen["folder"].exists()
            raise ZeroDivisionError

    seen = {}
    with pytest.raises(ZeroDivisionError):
        break_off()
    assert not runs(seen["pid"])
    assert not seen["folder"].exists()


def test_a_process_that_ignores_its_signal_is_killed(tmp_path):
    script = (
        "import signal, threading; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('deaf', flush=True); threading.Event().wait()"
    )
    with Nest("test") as nest:
        log = tmp_path / "log"
        process = nest.spawn([sys.executable, "-c", script], log=log, tidy_end=signal.SIGTERM)
        assert within(10, lambda: log.exists() and "deaf" in log.read_text())
        process.terminate()
        assert nest.reap(process, 0.2) == -signal.SIGKILL


def test_a_server_moves_on_from_a_port_that_somebody_took(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        for start in (devstack.postgres, devstack.nats_server):
            free = port.free_port()
            answers = iter([busy, free])
            monkeypatch.setattr(port, "free_port", lambda answers=answers: next(answers))
            with start() as server:
                assert server.port == free
            monkeypatch.undo()


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")


@root_only
def test_root_runs_postgres_as_nobody_and_opens_no_folder(tmp_path):
    before = modes(Path(sys.prefix), tmp_path)
    with devstack.postgres() as server:
        owner = Path(f"/proc/{server.pid}").stat().st_uid
        assert owner in {pwd.getpwnam("nobody").pw_uid, 0}
        assert server.log_path.stat().st_uid == 0
    assert modes(Path(sys.prefix), tmp_path) == before


@root_only
@pytest.mark.parametrize("way", ["namespace", "copy"])
def test_root_reaches_programs_in_a_closed_folder(way, monkeypatch, tmp_path):
    real = devstack.find_postgres()[0]
    closed = tmp_path / "closed"
    programs = identity.copied(real.bin_dir, closed)
    closed.chmod(0o700)
    if way == "copy":
        monkeypatch.setattr(identity.shutil, "which", lambda _: None)
    elif subprocess.run(["unshare", "--user", "true"], check=False).returncode:
        pytest.skip("user namespaces are switched off on this machine")
    hidden = devstack.Installation(programs, real.major)
    with devstack.postgres(hidden) as server:
        assert server.create_database("works")
        assert (server.log_path.parent / "install").exists() == (way == "copy")
    assert closed.stat().st_mode & 0o777 == 0o700


@root_only
def test_root_without_any_way_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(identity, "_reaches", lambda *_: False)
    with pytest.raises(devstack.DevstackError, match="ordinary user"), devstack.postgres():
        pass


def modes(*paths):
    folders = {folder for path in paths for folder in (path, *path.parents)}
    return {folder: (folder.stat().st_mode, folder.stat().st_uid) for folder in folders}
