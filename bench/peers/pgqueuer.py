"""pgqueuer: a job queue whose handler publishes."""

from collections.abc import Mapping, Sequence

from bench.peers.base import SUBJECT
from bench.peers.homes import PythonHome, disable_triggers, execute, printed, url_of


class PgQueuer:
    """See bench/peers/workers/pgqueuer.py for its settings."""

    name = "pgqueuer"
    source = "PyPI: pgqueuer"
    guarantees = "At least once, by heartbeats; jobs are deleted in batches after their PubAcks."
    lacks = (
        "No order per key; a publish that fails is held for a person; a crash publishes what was "
        "picked again after a heartbeat's timeout, caught by the Nats-Msg-Id that the handler sets."
    )
    home = PythonHome("pgqueuer", "pgqueuer[asyncpg]==1.6.0", "asyncpg==0.32.0", "nats-py==2.16.0")

    def install(self) -> str:
        """Make its virtual environment; its version."""
        return self.home.install()

    def prepare(self, dsn: str) -> None:
        """Make its durable tables, and set autovacuum as its guide asks, by its own program."""
        program = self.home.program("pgq")
        execute(dsn, printed([program, "sql", "install"]), printed([program, "sql", "autovac"]))

    def unburden(self, dsn: str) -> None:
        """Take its NOTIFY trigger away."""
        disable_triggers(dsn, "pgqueuer")

    def events_from(self, rows: str) -> str:
        """Return what its ``enqueue`` writes: the job, and its first line in the log."""
        return f"""
            with queued as (
                insert into pgqueuer (priority, entrypoint, payload, execute_after, status)
                select 0, 'orders', convert_to(event.payload, 'UTF8'), now(), 'queued'
                  from {rows} as event (key, payload)
                returning id, entrypoint, priority
            )
            insert into pgqueuer_log (job_id, status, entrypoint, priority)
            select id, 'queued', entrypoint, priority from queued
        """

    def command(self, dsn: str, nats_url: str, stream: str) -> Sequence[str]:
        """Return its worker's command."""
        return self.home.command("pgqueuer.py", url_of(dsn), nats_url, stream, SUBJECT)

    def environment(self) -> Mapping[str, str]:
        """Return nothing: it takes arguments."""
        return {}
