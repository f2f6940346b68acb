"""The measured relay's process, run and asked."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bench.processes import Child, python, running
from bench.stack import Stack

PATHS = ("fast ingest", "windowed")
ANY_STREAM = "-"
"""The stream's name for a relay that finds each subject's by itself."""


@contextmanager
def relaying(
    servers: Stack, dsn: str, stream: str, *flags: str, variables: Mapping[str, str] | None = None
) -> Iterator[Child]:
    """Run it, leading, for the length of the block."""
    command = [*python("bench.subject", dsn, servers.nats.url, stream), *flags]
    with running(command, variables) as child:
        child.ready()
        yield child


def drained(
    servers: Stack,
    dsn: str,
    path: str,
    events: int,
    *,
    any_stream: bool = False,
    variables: Mapping[str, str] | None = None,
    timeout: float = 600,
) -> dict[str, Any]:
    """Drain ``events`` of what waits in ``dsn`` into a fresh stream; the relay's report.

    ``any_stream``: the relay finds the stream by itself.
    """
    with servers.stream(batched=path == "fast ingest") as made:
        stream = ANY_STREAM if any_stream else made
        flags = ("--events", str(events))
        with relaying(servers, dsn, stream, *flags, variables=variables) as relay:
            report = report_of(relay.finish(timeout))
    assert report["delivered"] >= events, report
    return report


def report_of(said: str) -> dict[str, Any]:
    """Read the relay's last line."""
    report: dict[str, Any] = json.loads(said)
    return report
