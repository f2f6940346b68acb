"""procrastinate: a job queue whose task publishes."""

from collections.abc import Mapping, Sequence

from bench.peers.base import SUBJECT
from bench.peers.homes import PythonHome, disable_triggers, execute, printed, url_of

_WORKER = "procrastinate.py"


class Procrastinate:
    """See bench/peers/workers/procrastinate.py for its settings."""

    name = "procrastinate"
    source = "PyPI: procrastinate"
    guarantees = "At least once while its worker lives; a job is deleted after its PubAck."
    lacks = (
        "No order per key: its locks would keep it, at 12 events/s of a backlog of 2,000, and are "
        "left out here; jobs of a crashed worker wait until a task of the user's retries them."
    )
    home = PythonHome(
        "procrastinate",
        "procrastinate==3.10.0",
        "psycopg[binary,pool]==3.3.9",
        "nats-py==2.16.0",
    )

    def install(self) -> str:
        """Make its virtual environment; its version."""
        return self.home.install()

    def prepare(self, dsn: str) -> None:
        """Make its tables from its own schema."""
        execute(dsn, printed(self.home.command(_WORKER, "schema")))

    def unburden(self, dsn: str) -> None:
        """Take its triggers away: NOTIFY, and the history of each job."""
        disable_triggers(dsn, "procrastinate_jobs")

    def events_from(self, rows: str) -> str:
        """Return what its ``defer`` inserts, without the array around it."""
        return f"""
            insert into procrastinate_jobs (queue_name, task_name, priority, args)
            select 'orders', 'publish', 0, jsonb_build_object('payload', event.payload)
              from {rows} as event (key, payload)
        """

    def command(self, dsn: str, nats_url: str, stream: str) -> Sequence[str]:
        """Return its worker's command."""
        return self.home.command(_WORKER, url_of(dsn), nats_url, stream, SUBJECT)

    def environment(self) -> Mapping[str, str]:
        """Return nothing: it takes arguments."""
        return {}
