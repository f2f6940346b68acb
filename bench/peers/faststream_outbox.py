"""faststream-outbox: an outbox broker of FastStream, relayed to FastStream's JetStream broker."""

from collections.abc import Mapping, Sequence

from bench.peers.base import SUBJECT
from bench.peers.homes import PythonHome, execute, printed, url_of

_WORKER = "faststream_outbox.py"
# Its Python producer sends NOTIFY within the INSERT, once a transaction and queue. It is a function
# here, so that `unburden` has something to take away.
_NOTIFY = """
    create function outbox_notify() returns text language sql volatile
    as $$ select pg_notify('outbox_outbox', 'orders')::text $$
"""
_SILENCE = """
    create or replace function outbox_notify() returns text language sql volatile
    as $$ select null::text $$
"""


class FaststreamOutbox:
    """See bench/peers/workers/faststream_outbox.py for its settings."""

    name = "faststream-outbox"
    source = "PyPI: faststream-outbox"
    guarantees = "At least once, by leases with tokens; a row is deleted after its PubAck."
    lacks = (
        "No order per key; an event that fails ten times is deleted by default; a crash publishes "
        "whole batches again, caught by Nats-Msg-Id only if the producer writes that header."
    )
    home = PythonHome(
        "faststream-outbox",
        "faststream-outbox[asyncpg]==0.19.0",
        "faststream[nats]==0.7.8",
        "nats-py==2.16.0",
        "asyncpg==0.32.0",
        "uvloop==0.23.0",
    )

    def install(self) -> str:
        """Make its virtual environment; its version."""
        return self.home.install()

    def prepare(self, dsn: str) -> None:
        """Make its table from its own model."""
        execute(dsn, printed(self.home.command(_WORKER, "schema")), _NOTIFY)

    def unburden(self, dsn: str) -> None:
        """Let its producer notify nobody."""
        execute(dsn, _SILENCE)

    def events_from(self, rows: str) -> str:
        """Return what its ``publish`` would write for a text: it travels untouched."""
        return f"""
            with written as (
                insert into outbox (queue, payload, headers)
                select 'orders', convert_to(event.payload, 'UTF8'),
                       jsonb_build_object('content-type', 'text/plain', 'correlation_id', event.id,
                                          'Nats-Msg-Id', event.id)
                  from (
                      select gen_random_uuid()::text as id, event.payload
                        from {rows} as event (key, payload)
                  ) as event
            )
            select outbox_notify()
        """

    def command(self, dsn: str, nats_url: str, stream: str) -> Sequence[str]:
        """Return its relay's command."""
        url = url_of(dsn, "postgresql+asyncpg")
        return self.home.command(_WORKER, url, nats_url, stream, SUBJECT)

    def environment(self) -> Mapping[str, str]:
        """Return nothing: it takes arguments."""
        return {}
