"""A session is dropped while another task waits in it."""
# R-TERM

import subprocess
import sys

import pytest

DROPPED = """
import sys

import anyio
from psycopg import sql

from relay.errors import StoreOutage
from relay.postgres.session import Session, until_hung_up

SLEEP = sql.SQL("select pg_sleep(60)").format()


async def drop_in_the_turn_in_which_it_waits(dsn, wait):
    async with await Session.connect(dsn, "test") as session:
        async def waits():
            try:
                await (session.rows(SLEEP) if wait == "rows" else session.hear(print))
            except StoreOutage:
                print("dropped")

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(waits)
                while not session.connection.is_waited_for:
                    await anyio.lowlevel.checkpoint()
                session.drop()
        assert session.connection.closed


async def end_in_each_turn_of_a_wait_for_its_end(dsn):
    async with await Session.connect(dsn, "test") as session:
        for turns in range(20):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(until_hung_up, [session], 60)
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
            print("cancelled")
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(until_hung_up, [session], 60)
                await anyio.sleep(0.1)
                session.connection.is_waited_for = True
                session.drop()
        print("noticed")


async def main():
    if sys.argv[2] == "end":
        await end_in_each_turn_of_a_wait_for_its_end(sys.argv[1])
        return
    for _ in range(20):
        await drop_in_the_turn_in_which_it_waits(*sys.argv[1:])


anyio.run(main, backend_options={"use_uvloop": True})
"""


@pytest.mark.parametrize("wait", ["rows", "hear"])
def test_a_session_that_is_dropped_while_a_task_waits_in_it_ends_that_wait_and_no_process(
    outbox_dsn: str, wait: str
) -> None:
    assert ended(outbox_dsn, wait) == ["dropped"] * 20


def test_a_wait_for_the_end_of_a_session_may_be_cancelled_in_any_turn_of_the_loop(
    outbox_dsn: str,
) -> None:
    assert ended(outbox_dsn, "end") == ["cancelled"] * 20 + ["noticed"]


def ended(dsn: str, wait: str) -> list[str]:
    """Run it in a process of its own, under uvloop; what it printed."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", DROPPED, dsn, wait],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()
