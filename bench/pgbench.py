"""Producers as fast as they go: pgbench, one event a transaction, by any peer's statement."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.base import Peer, payload
from bench.processes import Child, running
from bench.stack import Stack


@contextmanager
def producing(
    servers: Stack,
    dsn: str,
    peer: Peer,
    clients: int,
    seconds: int,
    *,
    keys: int = 1000,
    rate: int = 0,
) -> Iterator[Child]:
    """Run ``clients`` for ``seconds`` in the background, ``rate`` commits/s; 0: as they can."""
    rows = f"(select 'k' || :key, {payload(':number')})"
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "produce.sql"
        script.write_text(
            f"\\set key random(1, {keys})\n\\set number random(1, 1000000)\n"
            + peer.events_from(rows).rstrip("; \n").replace("\n", " ")
            + ";\n"
        )
        command = [
            str(servers.postgres.installation.bin_dir / "pgbench"),
            *("--no-vacuum", "--protocol", "prepared", "--client", str(clients)),
            *("--jobs", str(min(clients, 2)), "--time", str(seconds), "--file", str(script)),
            *(("--rate", str(rate)) if rate else ()),
            dsn,
        ]
        with running(command) as child:
            yield child


def commits_per_second(
    servers: Stack, dsn: str, peer: Peer, clients: int, seconds: int, *, rate: int = 0
) -> float:
    """Run ``clients`` for ``seconds``, at ``rate`` commits/s or as they can; their commits/s."""
    with producing(servers, dsn, peer, clients, seconds, rate=rate) as child:
        return rate_of(child, seconds)


def rate_of(child: Child, seconds: int) -> float:
    """Wait for the end of a run; its commits/s."""
    said = child.finish(seconds + 60)
    found = re.search(r"tps = ([0-9.]+)", said)
    assert found is not None, said
    return float(found[1])
