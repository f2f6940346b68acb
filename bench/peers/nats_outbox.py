"""nats-outbox: an outbox for Postgres and JetStream by SQLAlchemy, polled."""

from collections.abc import Mapping, Sequence

from bench.peers.base import SUBJECT
from bench.peers.homes import PythonHome, execute, printed, url_of

_WORKER = "nats_outbox.py"


class NatsOutbox:
    """See bench/peers/workers/nats_outbox.py for its settings."""

    name = "nats-outbox"
    source = "PyPI: nats-outbox"
    guarantees = "At least once with Nats-Msg-Id, in order of ids while nothing fails."
    lacks = (
        "A retried event is overtaken by its key's later ones, a late commit by higher ids; one "
        "that fails five times is left to a person; published rows stay until a clean-up."
    )
    home = PythonHome("nats-outbox", "nats-outbox==0.1.0", "nats-py==2.16.0", "asyncpg==0.32.0")

    def install(self) -> str:
        """Make its virtual environment; its version."""
        return self.home.install()

    def prepare(self, dsn: str) -> None:
        """Make its table from its own model."""
        execute(dsn, printed(self.home.command(_WORKER, "schema")))

    def unburden(self, dsn: str) -> None:
        """Leave it as it is: there is no trigger."""

    def events_from(self, rows: str) -> str:
        """Return what its ``publish_event`` writes."""
        return f"""
            insert into outbox_events
                   (event_id, subject, headers, payload, status, retry_count, aggregate_id,
                    aggregate_type)
            select written.id, '{SUBJECT}', jsonb_build_object('Nats-Msg-Id', written.id),
                   written.payload::jsonb, 'pending', 0, written.key, 'order'
              from (
                  select gen_random_uuid() as id, event.key, event.payload
                    from {rows} as event (key, payload)
              ) as written
        """

    def command(self, dsn: str, nats_url: str, stream: str) -> Sequence[str]:
        """Return its relay's command; it finds the stream by the subject."""
        return self.home.command(_WORKER, url_of(dsn, "postgresql+asyncpg"), nats_url, stream)

    def environment(self) -> Mapping[str, str]:
        """Return nothing: it takes arguments."""
        return {}
