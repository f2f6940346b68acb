"""``relay status --watch``: on a terminal, in a pipe, over an outage, until Ctrl-C."""

import io
import logging
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from rich.console import Console

from relay import devstack, logs
from relay.cli.watch import _draw
from tests import warm
from tests.http.asking import park, serving
from tests.system.harness import connected

pytestmark = pytest.mark.timeout(120)

ON_A_TERMINAL = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that ^C reaches this process
from relay.cli import main
main()
"""


def environ(dsn: str) -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("RELAY_")}
    return {**kept, "RELAY_POSTGRES_DSN": dsn, "TERM": "xterm", "COLUMNS": "120"}


@contextmanager
def piped(dsn: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "relay", "status", "--watch", *args]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with warm.Popen(command, env=environ(dsn), text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def line_with(process: subprocess.Popen[str], wanted: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if re.search(wanted, line):
            return line
    raise AssertionError(process.stderr.read() if process.stderr else "")


@pytest.mark.slow
def test_in_a_pipe_it_writes_a_line_a_second_until_it_is_interrupted(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    park(dsn, 1)
    with serving(dsn, own_nats.url, tmp_path / "relay.log"), piped(dsn) as process:
        line = line_with(process, "leader .*bus breaker closed")
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ leader \S+, epoch 1, ", line)
        assert "parked 0, held 0, dead 1, lag breaker closed, bus breaker closed" in line
        assert "\x1b" not in line
        began = time.monotonic()
        for _ in range(2):
            line_with(process, "leader")
        assert 1 < time.monotonic() - began < 5
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.slow
def test_an_outage_is_shown_and_waited_for(tmp_path: Path) -> None:
    with devstack.postgres(settings={"fsync": "off"}) as server:
        dsn = server.create_database("shop")
        done = warm.run([sys.executable, "-m", "relay", "migrate"], env=environ(dsn))
        assert done.returncode == 0
        with piped(dsn) as process:
            line_with(process, "leader none, epoch 0")
            server.stop()
            line_with(process, "Postgres is away for .*: .")
            server.start()
            line_with(process, "leader none, epoch 0")


def test_what_a_person_has_to_change_ends_it(
    server: devstack.Postgres, dsn: str, own_nats: devstack.NatsServer
) -> None:
    empty = server.create_database(f"empty_{os.getpid()}")
    for args, code, said in (
        (["--postgres-dsn", empty], 3, "python -m relay migrate"),
        (["--postgres-dsn", f"{dsn} user=nobody_{os.getpid()}"], 2, "does not exist"),
        (["--json"], 2, "exclude each other"),
    ):
        with piped(dsn, *args) as process:
            assert process.wait(20) == code
            assert process.stderr is not None
            assert said in process.stderr.read()


def test_on_a_terminal_it_is_drawn_in_place_until_ctrl_c(
    dsn: str, own_nats: devstack.NatsServer
) -> None:
    with connected(f"{dsn} application_name='relay term'") as look:
        look.execute("update relay.cursor set holder = %s", ["evil\x1b[2J:1:x"])
        look.execute("select pg_advisory_lock(1919247482, 'relay.outbox'::regclass::oid::int4)")
        ours, theirs = pty.openpty()
        args = ["--stream", "NONE", "--nats-url", own_nats.url]
        with subprocess.Popen(
            [sys.executable, "-c", ON_A_TERMINAL, "status", "--watch", *args],
            env=environ(dsn),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        ) as process:
            os.close(theirs)
            told = read_until(ours, "there is no stream NONE")
            assert "Ctrl-C ends" in told
            assert "evil\\x1b[2J:1:x" in told
            assert "\x1b[2J" not in told
            read_until(ours, "events/s")
            os.write(ours, b"\x03")
            assert process.wait(10) == 130
            rest = read_rest(ours)
            assert "Traceback" not in rest
            assert "\x1b[?25h" in rest, "the cursor is left hidden"
        os.close(ours)


class Terminal(io.StringIO):
    """What a terminal would show of what is written to it."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        lines, at = [""], 0
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x1b\n\r]+|\n|\r", self.getvalue()):
            if part == "\n":
                at += 1
                lines += [""] * (at == len(lines))
            elif part == "\x1b[2K":
                lines[at] = ""
            elif part.endswith("A") and part.startswith("\x1b"):
                at -= int(part[2:-1])
            elif part == "\r" or part.startswith("\x1b"):
                continue
            else:
                lines[at] += part
        return [line.rstrip() for line in lines]


class Still:
    """A watch that sees the same for ever."""

    def rows(self) -> list[tuple[str, str]]:
        return [("schema", "relay"), ("leader", "a.host.example:4711:x"), ("lag", "0ms")]


@pytest.mark.anyio
@pytest.mark.parametrize("lines", [1, 3, 30])
async def test_a_log_line_is_written_above_the_drawing_and_tears_no_frame(
    lines: int, monkeypatch: pytest.MonkeyPatch, own_logging: None
) -> None:
    out, log = Terminal(), logging.getLogger("relay.test")
    monkeypatch.setattr(sys, "stderr", out)
    logs.configure("text", "info", stream=out)
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_draw, Still(), console)
        with anyio.fail_after(10):
            while "Ctrl-C ends" not in out.getvalue():
                await anyio.sleep(0.01)
        for number in range(lines):
            log.warning("away \x1b[2J", extra={"number": number, "side": str(number)})
        frames = out.getvalue().count("Ctrl-C ends")
        with anyio.fail_after(10):
            while out.getvalue().count("Ctrl-C ends") < frames + 2:
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    shown = [line for line in out.screen() if line]
    assert len(shown) == lines + 4
    for number, line in enumerate(shown[:lines]):
        assert re.fullmatch(rf".* WARNING relay.test away \\x1b\[2J number={number} .*", line)
    assert [line.split()[0] for line in shown[lines:-1]] == ["schema", "leader", "lag"]
    assert shown[-1].endswith("Ctrl-C ends")
    log.warning("afterwards")
    assert out.getvalue().endswith("afterwards\n")


def read_until(terminal: int, wanted: str) -> str:
    told = b""
    deadline = time.monotonic() + 20
    while wanted not in told.decode(errors="replace"):
        assert select.select([terminal], [], [], deadline - time.monotonic())[0], told
        told += os.read(terminal, 4096)
    return told.decode(errors="replace")


def read_rest(terminal: int) -> str:
    told = b""
    try:
        while part := os.read(terminal, 4096):
            told += part
    except OSError:  # Linux says so when the other side is closed
        pass
    return told.decode(errors="replace")
