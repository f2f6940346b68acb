"""The producers as the demo sees them: processes whose lines are gathered into a ledger."""

import json
import os
import sys
import time
from collections.abc import Mapping

import anyio
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from relay.demo.check import Committed
from relay.devstack import DevstackError

_END_TIMEOUT = 10.0


class Ledger:
    """What the producers said they committed.

    Attributes:
        events: in the order in which the demo heard of them.
        producing_for: how long the workload has run, in s; it stands still when it has ended.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.events: list[Committed] = []
        self._begun: float | None = None
        self._ended: float | None = None

    @property
    def producing_for(self) -> float:
        """Seconds from the first producer's start to now, or to the last one's end."""
        if self._begun is None:
            return 0.0
        return (self._ended or time.monotonic()) - self._begun

    def begin(self) -> None:
        """Start the clock."""
        self._begun = time.monotonic()

    def end(self) -> None:
        """Stop the clock."""
        self._ended = time.monotonic()

    def hear(self, line: str) -> None:
        """Take one producer's line, which tells of one commit."""
        self.events.extend(Committed(*event) for event in json.loads(line))


async def produce(
    dsn: str, *, producers: int, rate: float, events: int | None, ledger: Ledger, stop: anyio.Event
) -> None:
    """Run producers until they are done or ``stop`` is set; returns when all have ended.

    Args:
        dsn: where the outbox and the orders are.
        producers: how many processes.
        rate: events/s of all of them together.
        events: how many they commit together, exactly; None is without end.
        ledger: takes what they commit.
        stop: lets each finish the transaction that it is in.

    Raises:
        DevstackError: a producer failed; its message is on stderr.
    """
    ledger.begin()
    async with anyio.create_task_group() as tasks:
        for number in range(producers):
            share = None if events is None else len(range(number, events, producers))
            if share != 0:
                dsn_, variables = _without_password(dsn)
                command = _command(dsn_, rate / producers, share, number)
                tasks.start_soon(_run, command, variables, ledger, stop)
    ledger.end()


def _without_password(dsn: str) -> tuple[str, dict[str, str]]:
    """Put the password into the environment: other users of this machine see command lines."""
    parts = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    password = parts.pop("password", None)
    variables = dict(os.environ) | ({} if password is None else {"PGPASSWORD": password})
    return make_conninfo("", **parts), variables


def _command(dsn: str, rate: float, events: int | None, number: int) -> list[str]:
    command = [sys.executable, "-m", "relay.demo.producer", "--dsn", dsn, "--rate", str(rate)]
    command += ["--seed", str(number)]
    return command if events is None else [*command, "--events", str(events)]


async def _run(
    command: list[str], variables: Mapping[str, str], ledger: Ledger, stop: anyio.Event
) -> None:
    # Its own session: Ctrl-C in a terminal is ours to answer. Its stdin is its lifeline.
    process = await anyio.open_process(command, env=variables, stderr=None, start_new_session=True)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_end_on, stop, process)
            await _listen(process, ledger)
            tasks.cancel_scope.cancel()
        with anyio.fail_after(_END_TIMEOUT):
            code = await process.wait()
    finally:
        with anyio.CancelScope(shield=True):
            await process.aclose()
    if code != 0:
        raise DevstackError(f"a producer failed with exit code {code}")


async def _end_on(stop: anyio.Event, process: Process) -> None:
    await stop.wait()
    assert process.stdin is not None
    await process.stdin.aclose()


async def _listen(process: Process, ledger: Ledger) -> None:
    assert process.stdout is not None
    rest = ""
    async for text in TextReceiveStream(process.stdout):
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            ledger.hear(line)
