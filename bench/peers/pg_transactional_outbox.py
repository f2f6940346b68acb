"""pg-transactional-outbox: a library for node, by polling or by logical replication."""

from collections.abc import Mapping, Sequence

from psycopg.conninfo import conninfo_to_dict

from bench.peers.base import SUBJECT
from bench.peers.homes import NodeHome, execute, printed, url_of

_WORKER = "pg_transactional_outbox.mjs"
_PUBLICATION = "create publication outbox_publication for table outbox with (publish = 'insert')"
_SLOT = "select pg_create_logical_replication_slot('{slot}', 'pgoutput')"


class PgTransactionalOutbox:
    """See bench/peers/workers/pg_transactional_outbox.mjs for its settings."""

    source = "npm: pg-transactional-outbox"
    home = NodeHome(
        "pg-transactional-outbox",
        "pg-transactional-outbox@0.5.7",
        "@nats-io/transport-node@3.4.0",
        "@nats-io/jetstream@3.4.0",
    )

    def __init__(self, mode: str, guarantees: str, lacks: str) -> None:
        """``mode`` is "polling" or "replication"."""
        self.name = f"pg-transactional-outbox, {mode}"
        self.guarantees = guarantees
        self.lacks = lacks
        self._mode = mode

    def install(self) -> str:
        """Install it and a client of NATS; its version."""
        return self.home.install()

    def prepare(self, dsn: str) -> None:
        """Make its table from its own setup, and what its mode needs beside it."""
        execute(dsn, printed(self.home.command(_WORKER, "schema", self._mode), self.environment()))
        if self._mode == "replication":
            execute(dsn, _PUBLICATION, _SLOT.format(slot=_slot(dsn)))

    def unburden(self, dsn: str) -> None:
        """Leave it as it is: there is no trigger."""

    def events_from(self, rows: str) -> str:
        """Return what its message storage writes."""
        segment, concurrency = (
            ("event.key", "sequential") if self._mode == "replication" else ("null", "parallel")
        )
        return f"""
            insert into outbox
                   (id, aggregate_type, aggregate_id, message_type, segment, concurrency, payload)
            select gen_random_uuid(), 'order', event.key, 'placed', {segment}, '{concurrency}',
                   event.payload::jsonb
              from {rows} as event (key, payload)
        """

    def command(self, dsn: str, nats_url: str, stream: str) -> Sequence[str]:
        """Return its listener's command; it finds the stream by the subject."""
        del stream
        url = url_of(dsn)
        return self.home.command(_WORKER, self._mode, url, nats_url, SUBJECT, _slot(dsn))

    def environment(self) -> Mapping[str, str]:
        """Return where node finds its packages."""
        return self.home.variables


def _slot(dsn: str) -> str:
    # Slots are named across the whole server; an idle one goes when its database is dropped.
    return f"outbox_{conninfo_to_dict(dsn)['dbname']}"


POLLING = PgTransactionalOutbox(
    "polling",
    "At least once with the message's id as Nats-Msg-Id; each message in a transaction of its own.",
    "No order per key: its segments would keep it, at three quarters of the rate, and are left "
    "out here; processed rows stay until a clean-up.",
)
REPLICATION = PgTransactionalOutbox(
    "replication",
    "In order per key by its segments, with the message's id as Nats-Msg-Id.",
    "It loses an event whose commit it reads in the log before the row can be seen (on busy cores "
    "19 of 1,600 at 200/s); its slot keeps WAL while nobody reads; processed rows stay.",
)
