"""However it ends, nothing is left: no process, no file, no right or owner changed elsewhere."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from relay import devstack
from relay.devstack import programs, sandbox
from relay.devstack.reaper import runs
from relay.devstack.sandbox import Sandbox, wait_until
from tests.devstack.standby import standby

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
    with Sandbox("test") as sandbox:
        log = tmp_path / "log"
        process = sandbox.spawn([sys.executable, "-c", script], log=log, tidy_end=signal.SIGTERM)
        assert within(10, lambda: log.exists() and "deaf" in log.read_text())
        process.terminate()
        assert sandbox.reap(process, 0.2) == -signal.SIGKILL


def test_a_server_moves_on_from_a_port_that_somebody_took(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        for start in (devstack.postgres, devstack.nats_server):
            free = sandbox.free_port()
            answers = iter([busy, free])
            monkeypatch.setattr(sandbox, "free_port", lambda answers=answers: next(answers))
            with start() as server:
                assert server.port == free
            monkeypatch.undo()


NOBODY = pwd.getpwnam("nobody").pw_uid
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")


@root_only
def test_root_runs_postgres_as_nobody_and_opens_no_folder(tmp_path):
    before = modes(Path(sys.prefix), tmp_path)
    with devstack.postgres() as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid == NOBODY
        assert server.log_path.stat().st_uid == 0
    assert modes(Path(sys.prefix), tmp_path) == before


@pytest.mark.slow
@root_only
def test_root_reaches_programs_in_a_closed_folder_and_is_nobody_all_the_same(tmp_path):
    real = devstack.find_postgres()[0]
    closed = tmp_path / "closed"
    copy = programs.copied(real.bin_dir, closed)
    closed.chmod(0o700)
    hidden = devstack.Installation(copy, real.major)
    with devstack.postgres(hidden) as server:
        assert server.create_database("works")
        assert (server.log_path.parent / "install").exists()
        assert Path(f"/proc/{server.pid}").stat().st_uid == NOBODY
    assert closed.stat().st_mode & 0o777 == 0o700


@root_only
@pytest.mark.parametrize("closed", [True, False])
def test_a_superuser_of_the_database_reads_none_of_root_s_files(closed, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    real = devstack.find_postgres()[0]
    if closed:
        copy = programs.copied(real.bin_dir, tmp_path / "closed")
        (tmp_path / "closed").chmod(0o700)
        real = devstack.Installation(copy, real.major)
    with devstack.postgres(real) as server, psycopg.connect(server.dsn) as person:
        person.execute("create temp table told (line text)")
        with pytest.raises(psycopg.Error):
            person.execute(f"copy told from program 'cat {secret}'")
        person.rollback()
        person.execute("create temp table told (line text)")
        person.execute("copy told from program 'id -u'")
        assert person.execute("select line from told").fetchall() == [(str(NOBODY),)]


@pytest.fixture(scope="module")
def server():
    with devstack.postgres() as found:
        yield found


@pytest.fixture
def stranger():
    """What another user of this machine runs its commands with."""
    if os.geteuid() == 0:
        return {"user": 12_345, "group": 12_345, "extra_groups": []}
    return {}


@pytest.mark.parametrize("user", ["postgres", "relay", "nobody"])
@pytest.mark.parametrize("database", ["postgres", "template1"])
def test_another_user_of_this_machine_cannot_get_into_the_database(
    server, stranger, user, database, tmp_path
):
    psql = shutil.which("psql") or str(devstack.find_postgres()[0].bin_dir / "psql")
    tcp = ["-h", "127.0.0.1", "-p", str(server.port)]
    for way in (tcp, ["-h", "/tmp", "-p", str(server.port)]):
        for password in ("", "postgres", user):
            done = subprocess.run(
                [psql, "-w", *way, "-U", user, "-d", database, "-c", "select 1"],
                env={"PGPASSWORD": password, "PATH": os.environ["PATH"]},
                capture_output=True,
                text=True,
                check=False,
                **stranger,
            )
            assert done.returncode == 2, done.stdout + done.stderr
    assert "password" in done.stderr or "No such file" in done.stderr


def test_each_cluster_has_a_password_of_its_own_and_a_wrong_one_is_refused(server):
    with devstack.postgres() as another:
        assert len({server.password, another.password}) == 2
        assert min(len(server.password), len(another.password)) >= 32
        wrong = make_conninfo(server.dsn, password=another.password)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)
        with standby(another) as copy, psycopg.connect(copy.dsn) as look:
            assert look.execute("select pg_is_in_recovery()").fetchone() == (True,)
            assert copy.password == another.password


def test_the_password_is_in_no_command_line_and_no_file_that_others_can_read(server):
    assert server.create_database("seen")
    with standby(server) as copy:
        for command in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                assert server.password.encode() not in command.read_bytes()
        for folder in (server.log_path.parent, copy.log_path.parent):
            readable = [
                path
                for path in folder.iterdir()
                if path.stat().st_mode & 0o077 and path.name != "install"
            ]
            assert readable == []
            assert not folder.stat().st_mode & 0o066


@root_only
def test_root_without_any_way_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(programs, "_reaches", lambda *_: False)
    with pytest.raises(devstack.DevstackError, match="ordinary user"), devstack.postgres():
        pass


def modes(*paths):
    folders = {folder for path in paths for folder in (path, *path.parents)}
    return {folder: (folder.stat().st_mode, folder.stat().st_uid) for folder in folders}
