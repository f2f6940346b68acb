"""One connection to one NATS server, and the exchanges that go over it.

    open_connection() ──► open ──drop(), EOF, silence, lame duck──► lost, with a reason, for ever

A connection has one reply inbox, ``<prefix>.<token>``. Each exchange (a request, a batch, a window)
takes a token below it. Tokens come from ``secrets``: who can't read the inbox can't answer ahead of
the server. Answers are told apart by their token alone; one that comes too late finds nobody, and
is looked at only for the name of a second stream that captures the same subjects.

Authoritative: the server's answers. A permission violation is no answer but an error text beside
them; it names the subject, and goes to every exchange under way.

On failure every exchange is told ``dropped`` once; nothing is re-sent here, ever. R-BOUND: a frozen
peer is noticed by the keep-alive within three ping intervals, or by an exchange's own deadline.
"""

import logging
import math
import re
import secrets
import ssl
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit

import anyio

from relay.errors import BusLoginRefused, BusOutage, SettingsError
from relay.jetstream.options import BusOptions
from relay.jetstream.security import log_in, must_encrypt, tls_context, warn_of_plaintext
from relay.jetstream.wire import WireClient
from relay.ports import Permit

log = logging.getLogger(__name__)

_VIOLATION = re.compile(
    r'permissions violation for (publish|subscription) to "(.*)"', re.IGNORECASE | re.DOTALL
)
_ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|.)", re.DOTALL)
_SHORT = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}

_TOKEN_BYTES = 16
_TOKEN_LENGTH = 22

_LOGIN_REFUSED = re.compile(
    r"authorization violation|(user|account) authentication (expired|revoked)"
    r"|TLS was asked for",
    re.IGNORECASE,
)
"""What is said of credentials that a server does not take, whichever kind they are of, and by us of
a server without TLS."""

_PORT = 4222
_MOST_DENIALS = 1000


def new_token() -> str:
    """Return a token that nobody can guess, of the characters that a subject may have."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


class Exchange(Protocol):
    """Something that waits for answers. All three are called synchronously by the reading task."""

    def answered(self, rest: bytes, payload: bytes, headers: bytes | None) -> None:
        """Take an answer; ``rest`` is the reply subject behind the exchange's token.

        Anybody may have sent it. Must not raise, whatever it holds.
        """
        ...

    def denied(self, subject: str, reason: str) -> None:
        """Hear that publishing to ``subject`` is forbidden: no answer will come."""
        ...

    def dropped(self, reason: str) -> None:
        """Hear that the connection is lost: no answer will come any more."""
        ...


class Connection:
    """An open connection. ``lost`` is None while it lasts, then the reason, for ever.

    Attributes:
        url: the server's.
        inbox: the subject below which answers come.
        forbidden_inbox: why we may not subscribe to it; None if we may.
        on_stray: gets the payload of an answer that nobody waits for any more.
    """

    def __init__(self, url: str, options: BusOptions) -> None:
        """Prepare a connection to ``url``; ``open_connection`` opens it."""
        self.url = url
        self.lost: str | None = None
        self.inbox = f"{options.inbox_prefix}.{new_token()}"
        self.forbidden_inbox: str | None = None
        self.on_stray: Callable[[bytes], None] | None = None
        self.wire = WireClient(
            deliver=self._deliver,
            on_denial=self._denied_by_server,
            on_lost=self._lost,
            must_encrypt=must_encrypt(options, url),
        )
        self._skip = len(self.inbox.encode()) + 1
        self._exchanges: dict[bytes, Exchange] = {}
        self._denied: set[str] = set()

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
        token = new_token()
        if self.lost is not None:
            waiting.dropped(self.lost)
        self._exchanges[token.encode()] = waiting
        try:
            yield token
        finally:
            del self._exchanges[token.encode()]

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
        elif self.on_stray is not None:
            self.on_stray(payload)

    def _denied_by_server(self, text: str) -> None:
        violation = _VIOLATION.search(text)
        if violation is None:
            log.warning("NATS forbids", extra={"reason": text})
            return
        subject = unquoted(violation[2])
        if violation[1].lower() == "subscription":
            log.warning("NATS forbids", extra={"reason": text})
            self.forbidden_inbox = text
            self.drop(text)
            return
        if subject not in self._denied and len(self._denied) < _MOST_DENIALS:
            self._denied.add(subject)
            log.warning("NATS forbids", extra={"reason": text})
        for waiting in list(self._exchanges.values()):
            waiting.denied(subject, text)

    def _lost(self, reason: str) -> None:
        self.lost = reason
        for waiting in list(self._exchanges.values()):
            waiting.dropped(reason)


class Sender:
    """Writes to a connection while the permit lasts (R-TERM). One for each call of ``publish``."""

    def __init__(self, connection: Connection, permit: Permit) -> None:
        """Write to ``connection`` while ``permit`` is granted."""
        self.connection = connection
        self._permit = permit
        self._renewing = anyio.Lock()

    async def write(self, frames: bytes, scope: anyio.CancelScope) -> None:
        """Write whole frames, but nothing unless the permit is granted at that moment.

        ``scope`` has no deadline while the permit is renewed; the caller sets a new one after it.

        Raises:
            TermLost, StoreOutage: the permit could not be renewed; nothing is written.
        """
        if not self._permit.granted():
            scope.deadline = math.inf
            async with self._renewing:
                if not self._permit.granted():
                    await self._permit.renew()
        self.connection.wire.write(frames)


def unquoted(text: str) -> str:
    r"""Undo how a server quotes a subject (Go's %q): ``\"``, ``\\``, ``\x7f``, ``\u00ad`` ..."""

    def plain(found: re.Match[str]) -> str:
        escape = found[1]
        if len(escape) == 1:
            return _SHORT.get(escape, escape)
        code = int(escape[1:], 16)
        return chr(code) if code <= 0x10FFFF else "�"  # noqa: PLR2004 - the last of Unicode

    return _ESCAPE.sub(plain, text)


async def open_connection(options: BusOptions, url: str, tls_name: str | None = None) -> Connection:
    """Connect to one server under the connect deadline.

    Raises:
        BusLoginRefused: it refuses the credentials, or its TLS is not what was asked for.
        BusOutage: it is away, silent, or says what nobody understands; the reason is in the text.
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
        opened = True
    except SettingsError:
        raise
    except Exception as error:
        # nats-py trips over whatever a server says that is not as it expects.
        why = str(error).removeprefix("nats: ").strip("'") or type(error).__name__
        if isinstance(error, TimeoutError):
            why = f"no connection within {time.monotonic() - started:.1f} s"
        if _is_refusal(error, why):
            raise BusLoginRefused(f"{shown}: {why}") from error
        raise BusOutage(f"{shown}: {why}") from error
    finally:
        if not opened:
            connection.drop("not connected")
            await connection.dropped()
    warn_of_plaintext(options, url, encrypted=connection.wire.encrypted)
    return connection


def _is_refusal(error: Exception, why: str) -> bool:
    """Whether a person has to change something: the log-in, the certificates, TLS itself."""
    if isinstance(error, ssl.SSLError):
        return not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
    return _LOGIN_REFUSED.search(why) is not None


def _leave_lame_duck(connection: Connection) -> Callable[[], Coroutine[Any, Any, None]]:
    async def leave() -> None:
        connection.drop("the server is shutting down (lame duck mode)")

    return leave
