"""One connection to one NATS server, and the exchanges that go over it.

    open_connection() ──► open ──drop(), EOF, silence, lame duck──► lost, with a reason, for ever

A connection has one inbox, ``<prefix>.<nuid>``. Each exchange (a request, a batch, a window) takes
a token below it; answers are told apart by that token alone, so an answer that comes too late finds
nobody and is ignored.

Authoritative: the server's answers. A permission violation is no answer but an error text beside
them; it names the subject in lower case, and goes to every exchange under way.

On failure every exchange is told ``dropped`` once; nothing is re-sent here, ever. A frozen peer is
noticed by the keep-alive within three ping intervals, or by an exchange's own deadline.
"""

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit

import anyio
from nats import errors
from nats.nuid import NUID

from relay.errors import BusLoginRefused, BusOutage, SettingsError
from relay.jetstream.options import BusOptions
from relay.jetstream.security import log_in, must_encrypt, tls_context
from relay.jetstream.wire import WireClient

log = logging.getLogger(__name__)

_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')
_TOKEN_LENGTH = 22
"""Of a NUID."""

_LOGIN_REFUSED = re.compile(
    r"authorization violation|(user|account) authentication (expired|revoked)"
)
"""What a server says to credentials that it does not take, whichever kind they are of."""

_PORT = 4222
_DENIAL_LASTS = 1.0
_DENIAL_TOLD_FOR = 60.0
_MOST_SERVERS = 64


class Exchange(Protocol):
    """Something that waits for answers. All three are called synchronously by the reading task."""

    def answered(self, rest: bytes, payload: bytes, headers: bytes | None) -> None:
        """Take an answer; ``rest`` is the reply subject behind the exchange's token."""
        ...

    def denied(self, subject: str, reason: str) -> None:
        """Hear that publishing to ``subject`` (in lower case) is forbidden: no answer will come."""
        ...

    def dropped(self, reason: str) -> None:
        """Hear that the connection is lost: no answer will come any more."""
        ...


class Connection:
    """An open connection. ``lost`` is None while it lasts, then the reason, for ever."""

    def __init__(self, url: str, options: BusOptions) -> None:
        """Prepare a connection to ``url``; ``open_connection`` opens it."""
        self.url = url
        self.lost: str | None = None
        self.inbox = f"{options.inbox_prefix}.{NUID().next().decode()}"
        self.forbidden_inbox: str | None = None
        self.wire = WireClient(
            deliver=self._deliver,
            on_error=self._hear_error,
            on_lost=self._hear_loss,
            must_encrypt=must_encrypt(options, url),
        )
        self._skip = len(self.inbox) + 1
        self._exchanges: dict[bytes, Exchange] = {}
        self._denials: dict[str, tuple[str, float]] = {}
        self._nuid = NUID()

    @property
    def address(self) -> tuple[str, int]:
        """The server's host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or _PORT

    @property
    def max_payload(self) -> int:
        """The server's limit of headers and payload together, bytes, as it said last."""
        return self.wire.max_payload

    @contextmanager
    def exchange(self, waiting: Exchange) -> Iterator[str]:
        """Give ``waiting`` a token, unique everywhere, for as long as the block lasts."""
        token = self._nuid.next().decode()
        if self.lost is not None:
            waiting.dropped(self.lost)
        self._exchanges[token.encode()] = waiting
        try:
            yield token
        finally:
            del self._exchanges[token.encode()]

    def denial(self, subject: str) -> str | None:
        """Say why publishing to ``subject`` was forbidden within the last second, if it was."""
        if not self._denials:
            return None
        reason, at = self._denials.get(subject.lower(), ("", 0.0))
        return reason if reason and anyio.current_time() - at < _DENIAL_LASTS else None

    def drop(self, reason: str) -> None:
        """End the connection now; what the kernel has not taken is never sent."""
        self.wire.abort(reason)

    async def dropped(self) -> None:
        """Wait, at most 1 s, until a dropped connection has left nothing behind."""
        with anyio.move_on_after(1, shield=True):
            await self.wire.aborted()

    def _deliver(self, subject: bytes, payload: bytes, headers: bytes | None) -> None:
        behind = self._skip + _TOKEN_LENGTH
        waiting = self._exchanges.get(subject[self._skip : behind])
        if waiting is not None:
            waiting.answered(subject[behind + 1 :], payload, headers)

    def _hear_error(self, error: Exception) -> None:
        text = str(error)
        violation = _VIOLATION.search(text)
        if violation is None:
            log.debug("nats-py reports", extra={"error": text or type(error).__name__})
            return
        reason = text.removeprefix("nats: ")
        subject = violation[2]
        if violation[1] == "subscription":
            log.warning("NATS forbids", extra={"reason": reason})
            self.forbidden_inbox = reason
            self.drop(reason)
            return
        now = anyio.current_time()
        if now - self._denials.get(subject, ("", -_DENIAL_TOLD_FOR))[1] >= _DENIAL_TOLD_FOR:
            log.warning("NATS forbids", extra={"reason": reason})
        if len(self._denials) >= 1000:  # noqa: PLR2004 - a bound, its size is of no matter
            self._denials.clear()
        self._denials[subject] = (reason, now)
        for waiting in list(self._exchanges.values()):
            waiting.denied(subject, reason)

    def _hear_loss(self, reason: str) -> None:
        self.lost = reason
        for waiting in list(self._exchanges.values()):
            waiting.dropped(reason)


class Servers:
    """The servers of one cluster: those configured first, then those that the cluster told of.

    The one that failed goes to the end, so that a lost connection is followed by one elsewhere.
    """

    def __init__(self, options: BusOptions) -> None:
        """Begin with the configured URLs.

        Raises:
            SettingsError: a URL is not ``nats://host`` or ``tls://host``.
        """
        self._options = options
        self._known: deque[tuple[str, str | None]] = deque()
        for url in options.urls:
            whole = url if "://" in url else f"nats://{url}"
            parts = urlsplit(whole)
            if parts.scheme not in {"nats", "tls"} or not parts.hostname:
                shown = f"{parts.scheme}://{parts.hostname or ''}"
                raise SettingsError([f"nats urls: {shown}: must be nats://host or tls://host"])
            self._known.append((whole, None))
        if not self._known:
            raise SettingsError(["nats urls: there is none"])

    async def connect(self) -> Connection:
        """Try each server once, in turn.

        Raises:
            BusLoginRefused: every one of them refused the credentials.
            BusOutage: none of them took us; the reasons are in the text.
            SettingsError: a credentials or certificate file is not usable.
        """
        refusals: list[BusOutage] = []
        for _ in range(len(self._known)):
            url, tls_name = self._known[0]
            self._known.rotate(-1)
            try:
                connection = await open_connection(self._options, url, tls_name)
            except BusOutage as outage:
                refusals.append(outage)
                continue
            self._learn(connection, url, tls_name)
            return connection
        kind = BusOutage
        if all(isinstance(each, BusLoginRefused) for each in refusals):
            kind = BusLoginRefused
        raise kind("; ".join(map(str, refusals)))

    def _learn(self, connection: Connection, url: str, tls_name: str | None) -> None:
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        known = {urlsplit(each).netloc.rpartition("@")[2] for each, _ in self._known}
        for found in connection.wire.discovered_servers:
            if found.netloc not in known and len(self._known) < _MOST_SERVERS:
                at = f"{user}@{found.netloc}" if user else found.netloc
                self._known.appendleft((f"{parts.scheme}://{at}", tls_name or parts.hostname))


async def open_connection(options: BusOptions, url: str, tls_name: str | None = None) -> Connection:
    """Connect to one server under the connect deadline.

    Raises:
        BusLoginRefused: it refuses the credentials.
        BusOutage: it is away, silent, without TLS, or shuts us out; the reason is in the text.
        SettingsError: a credentials or certificate file is not usable.
    """
    shown = urlsplit(url).netloc.rpartition("@")[2]
    how = log_in(options)
    if must_encrypt(options, url):
        how["tls"] = tls_context(options)
    if tls_name:
        how["tls_hostname"] = tls_name
    connection = Connection(url, options)
    started = time.monotonic()
    opened = False
    try:
        with anyio.fail_after(options.connect_timeout):
            await connection.wire.open(
                url,
                connection.inbox,
                name=options.name,
                connect_timeout=options.connect_timeout,
                ping_interval=options.ping_interval,
                max_outstanding_pings=2,
                inbox_prefix=options.inbox_prefix,
                lame_duck_mode_cb=_leave_lame_duck(connection),
                **how,
            )
    except (OSError, TimeoutError, errors.Error) as error:
        why = str(error).removeprefix("nats: ").strip("'") or type(error).__name__
        if isinstance(error, TimeoutError):
            why = f"no connection within {time.monotonic() - started:.1f} s"
        if _LOGIN_REFUSED.search(why.lower()):
            raise BusLoginRefused(f"{shown}: {why}") from error
        raise BusOutage(f"{shown}: {why}") from error
    else:
        opened = True
    finally:
        if not opened:
            connection.drop("not connected")
            await connection.dropped()
    return connection


def _leave_lame_duck(connection: Connection) -> Callable[[], Coroutine[Any, Any, None]]:
    async def leave() -> None:
        connection.drop("the server is shutting down (lame duck mode)")

    return leave
