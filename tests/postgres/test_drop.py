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
from relay.postgres.session import Session

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


async def main():
    for _ in range(20):
        await drop_in_the_turn_in_which_it_waits(*sys.argv[1:])


anyio.run(main, backend_options={"use_uvloop": True})
"""


@pytest.mark.parametrize("wait", ["rows", "hear"])
def test_a_session_that_is_dropped_while_a_task_waits_in_it_ends_that_wait_and_no_process(
    outbox_dsn: str, wait: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", DROPPED, outbox_dsn, wait],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["dropped"] * 20
