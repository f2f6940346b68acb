"""How to reach NATS and which stream to use, as the application hands it to the adapter."""

import dataclasses
from dataclasses import dataclass


def api_prefix(domain: str | None) -> str:
    """Return the subject prefix of the JetStream API; ``domain`` may be such a prefix itself."""
    given = (domain or "").rstrip(".")
    if not given:
        return "$JS.API"
    return given if "." in given or given.startswith("$") else f"$JS.{given}.API"


_SECRETS = frozenset({"nkey_seed", "password", "token", "urls"})


@dataclass(frozen=True, slots=True, repr=False)
class BusOptions:
    """Connection and stream options. ``repr`` shows no secret, nor a URL's user part.

    Attributes:
        urls: ``nats://`` or ``tls://`` servers of one cluster, tried by turns with those that it
            announces.
        creds: path of a credentials file (JWT and seed).
        nkey_seed: an nkey seed, or the path of a file that holds one.
        secret_files: (option, path) of nkey_seed, password and token, read anew at each connect.
        tls_ca, tls_cert, tls_key: paths; without a CA the system's are trusted.
        inbox_prefix: where answers are sent, for accounts that may not subscribe to ``_INBOX.>``.
        stream: the only stream to publish to; None: the stream that captures the event's subject.
        stream_subjects: what that stream captures, or must capture. Where the permissions hide the
            streams, nothing is published but below these.
        stream_create: make the stream if it is missing. An existing one is never altered.
        js_domain: the JetStream domain to talk to, or the prefix of its API.
        cloudevents_source, cloudevents_type, cloudevents_subject: a URI reference and templates of
            ``core.cloudevents``; without a source messages are no CloudEvents.
        ack_timeout: s without any answer after which what is in flight is Unknown.
        connect_timeout: s for one server to accept us, TLS and log-in included.
        ping_interval: s between keep-alives. A frozen peer is given up within three: 4.5 s.
        window: most messages in flight on the windowed path.
        reconcile: compare the streams with the checkpoints on each new connection.
    """

    urls: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    creds: str | None = None
    nkey_seed: str | None = None
    user: str | None = None
    password: str | None = None
    token: str | None = None
    secret_files: tuple[tuple[str, str], ...] = ()
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    inbox_prefix: str = "_INBOX"
    stream: str | None = None
    stream_subjects: tuple[str, ...] = ()
    stream_create: bool = False
    js_domain: str | None = None
    message_id_prefix: str = ""
    cloudevents_source: str | None = None
    cloudevents_type: str = "{subject}"
    cloudevents_subject: str = "{key}"
    ack_timeout: float = 4.0
    connect_timeout: float = 5.0
    ping_interval: float = 1.5
    window: int = 1000
    reconcile: bool = True
    name: str = "relay"

    @property
    def api(self) -> str:
        """The subject prefix of the JetStream API, without the last dot."""
        return api_prefix(self.js_domain)

    @property
    def own_ids(self) -> str:
        """How the message ids begin that the relay makes itself; others are producers' keys."""
        return f"{self.message_id_prefix}relay-"

    def __repr__(self) -> str:
        """Show what is set, with secrets as ``***``."""
        shown = [
            f"{field.name}={'***' if field.name in _SECRETS else repr(value)}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return f"BusOptions({', '.join(shown)})"
