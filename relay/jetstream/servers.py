"""The servers of one cluster, and how we log in to them.

Servers: those that the cluster announces, by chance, and those configured, by turns: announced
addresses may all have changed meanwhile, and a configured name may be one of the past. Of either
kind the one that was tried last comes last, so that a lost connection is followed by one elsewhere.
Authoritative for what is announced: the newest INFO of the newest connection. An address that it
does not hold is forgotten.

Log-in and TLS: files are opened here, so that one that can't be read is named with its option and
not with a failed connection. They are read at every connect: rotated credentials need no restart.
A secret that others can read is a warning, once for each: a file that every user of the machine may
read, a password that goes over the network in the clear.
"""

import ipaddress
import logging
import os
import random
import re
import ssl
import stat
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio

from relay.errors import BusLoginRefused, BusOutage, SettingsError
from relay.jetstream.connection import PORT, Connection
from relay.jetstream.options import BusOptions

log = logging.getLogger(__name__)

_MOST_ANNOUNCED = 64

_LOGIN_REFUSED = re.compile(
    "authorization violation|authentication (expired|revoked)|TLS was asked for", re.IGNORECASE
)
"""What a server says of credentials of any kind, and what we say of a server without TLS."""

_CONNECT_FAILED = re.compile(r"\[Errno (\d+)\] Connect call failed \([^)]*\)")
"""asyncio's words for whatever the system said."""

_ERRNO = re.compile(r"\[Errno -?\d+\] ")

_warned: set[str] = set()
"""Once a process: each connection opens the same files."""


class Servers:
    """The servers of one cluster, as far as they are known now."""

    def __init__(self, options: BusOptions) -> None:
        """Begin with the configured URLs.

        Raises:
            SettingsError: a URL is not ``nats://host`` or ``tls://host``.
        """
        self._options = options
        self._configured: list[str] = []
        self._newest: Connection | None = None  # what it is told is what the cluster announces
        self._tls_name: str | None = None  # the name in its certificate, where its URL has another
        for url in options.urls:
            whole = url if "://" in url else f"nats://{url}"
            scheme, host = _scheme_and_host(whole)
            if scheme not in {"nats", "tls"} or not host:
                shown = f"{scheme}://{host}"
                raise SettingsError([f"nats urls: {shown}: must be nats://host or tls://host"])
            self._configured.append(whole)
        if not self._configured:
            raise SettingsError(["nats urls: there is none"])

    async def connect(self) -> Connection:
        """Try each server once, in turn.

        Raises:
            BusLoginRefused: every one of them refused us as we are set up.
            BusOutage: none of them took us; the reasons are in the text.
            SettingsError: a credentials or certificate file is not usable.
        """
        refusals: list[BusOutage] = []
        for url, tls_name in self.in_turn():
            if url in self._configured:
                self._configured.remove(url)
                self._configured.append(url)
            try:
                connection = await _open(self._options, url, tls_name)
            except BusOutage as outage:
                refusals.append(outage)
                continue
            self._newest, self._tls_name = connection, tls_name
            return connection
        refused = all(isinstance(each, BusLoginRefused) for each in refusals)
        raise (BusLoginRefused if refused else BusOutage)("; ".join(map(str, refusals)))

    def in_turn(self) -> list[tuple[str, str | None]]:
        """Return all servers in the order in which they are tried.

        Each is a URL, and the name in its certificate where that is another one.
        """
        configured = [(url, None) for url in self._configured]
        by_turns = zip_longest(self._announced(), configured)
        return [server for both in by_turns for server in both if server is not None]

    def _announced(self) -> list[tuple[str, str | None]]:
        """Return what is announced beside the configured ones; where we were last comes last."""
        if self._newest is None:
            return []
        parts = urlsplit(self._newest.url)
        user, at, last = parts.netloc.rpartition("@")
        known = {urlsplit(url).netloc.rpartition("@")[2] for url in self._configured}
        others = list({*self._newest.wire.announced} - known)
        addresses = random.sample(others, min(len(others), _MOST_ANNOUNCED))
        addresses.sort(key=last.__eq__)
        tls_name = self._tls_name or parts.hostname
        return [(f"{parts.scheme}://{user}{at}{each}", tls_name) for each in addresses]


def _scheme_and_host(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
        usable = (parts.port or PORT) > 0
    except ValueError:
        return url.partition("://")[0], ""
    return parts.scheme, (parts.hostname or "") if usable else ""


async def _open(options: BusOptions, url: str, tls_name: str | None) -> Connection:
    parts = urlsplit(url)
    must_encrypt = parts.scheme == "tls" or any((options.tls_ca, options.tls_cert, options.tls_key))
    how = log_in(options)
    if must_encrypt:
        how["tls"] = tls_context(options)
    if tls_name:
        how["tls_hostname"] = tls_name
    connection = await open_connection(
        url,
        options.connect_timeout,
        must_encrypt=must_encrypt,
        name=options.name,
        connect_timeout=options.connect_timeout,
        ping_interval=options.ping_interval,
        max_outstanding_pings=2,
        inbox_prefix=options.inbox_prefix,
        **how,
    )
    warn_of_plaintext(options, url, encrypted=connection.wire.encrypted)
    return connection


async def open_connection(
    url: str, within: float, *, must_encrypt: bool, inbox_prefix: str, **how: Any
) -> Connection:
    """Connect to one server in ``within`` s; ``how`` as nats-py's ``connect`` takes it.

    Raises:
        BusLoginRefused, BusOutage: it does not take us.
    """
    connection = Connection(url, inbox_prefix, must_encrypt=must_encrypt)
    opened = False
    try:
        with anyio.fail_after(within):
            await connection.open(inbox_prefix=inbox_prefix, **how)
        opened = True
    except Exception as error:
        # nats-py trips over whatever a server says that is not as it expects.
        why = _in_words(error)
        if isinstance(error, TimeoutError):
            why = f"no connection within {within:g} s"
        kind = BusLoginRefused if _is_refusal(error, why) else BusOutage
        raise kind(f"{urlsplit(url).netloc.rpartition('@')[2]}: {why}") from error
    finally:
        if not opened:
            connection.drop("not connected")
            await connection.dropped()
    return connection


def _in_words(error: Exception) -> str:
    """Return what the system or nats-py said, without Python's numbers and tuples."""
    text = str(error).removeprefix("nats: ").strip("'") or type(error).__name__
    text = _CONNECT_FAILED.sub(lambda found: os.strerror(int(found[1])), text)
    return _ERRNO.sub("", text)


def _is_refusal(error: Exception, why: str) -> bool:
    """Whether a person has to change something: the log-in, the certificates, TLS itself."""
    if isinstance(error, ssl.SSLError):
        return not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
    return _LOGIN_REFUSED.search(why) is not None


def log_in(options: BusOptions) -> dict[str, Any]:
    """Name the log-in for nats-py. All that are set are handed on; it prefers creds, then nkey."""
    newest: Any = {name: _secret(name, path) for name, path in options.secret_files}
    options = replace(options, **newest)
    how: dict[str, Any] = {name: getattr(options, name) for name in ("user", "password", "token")}
    if options.creds:
        try:
            text = Path(options.creds).read_text()
        except (OSError, ValueError) as error:
            raise SettingsError([f"nats creds: {options.creds}: {error}"]) from error
        if "BEGIN NATS USER JWT" not in text or "BEGIN USER NKEY SEED" not in text:
            raise SettingsError([f"nats creds: {options.creds} holds no user JWT with its seed"])
        how["user_credentials"] = options.creds
        _warn_of_readers("creds", options.creds)
    if options.nkey_seed:
        how["nkeys_seed_str"] = _seed(options.nkey_seed)
    return {name: value for name, value in how.items() if value is not None}


def _secret(option: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise SettingsError([f"nats {option}: {path}: {why}"]) from None


def _seed(given: str) -> str:
    """Take an nkey seed, or find it in the file that ``given`` names. No error shows the value."""
    text = given.strip()
    if not _is_seed(text):
        try:
            lines = [line.strip() for line in Path(text).read_text().splitlines()]
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise SettingsError([f"nats nkey_seed: neither a seed nor a file ({why})"]) from None
        _warn_of_readers("nkey_seed", text)
        text = next((line for line in lines if _is_seed(line)), "")
    import nkeys  # noqa: PLC0415 - PyNaCl is loaded only where an nkey is used

    try:
        nkeys.from_seed(bytearray(text.encode())).wipe()
    except (nkeys.NkeysError, ValueError) as error:
        raise SettingsError(["nats nkey_seed: not a user's seed (SU...)"]) from error
    return text


def _is_seed(text: str) -> bool:
    return text.startswith("SU") and len(text) == len("SU") + 56 and text.isalnum()


def tls_context(options: BusOptions) -> ssl.SSLContext:
    """Make the TLS context: our own CA or the system's, and the client's certificate if given."""
    try:
        context = ssl.create_default_context(cafile=options.tls_ca)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError([f"nats tls_ca: {options.tls_ca}: {error}"]) from error
    if options.tls_key and not options.tls_cert:
        raise SettingsError(["nats tls_key: a key needs its certificate, tls_cert"])
    if options.tls_cert:
        try:
            context.load_cert_chain(options.tls_cert, options.tls_key)
        except (OSError, ssl.SSLError) as error:
            both = f"{options.tls_cert}, {options.tls_key or 'no key'}"
            raise SettingsError([f"nats tls_cert, tls_key: {both}: {error}"]) from error
        _warn_of_readers("tls_key", options.tls_key or options.tls_cert)
    return context


def warn_of_plaintext(options: BusOptions, url: str, *, encrypted: bool) -> None:
    """Warn if a password or token has gone to another host in the clear.

    An nkey or a credentials file only signs what the server asks.
    """
    parts = urlsplit(url)
    secret = parts.username or options.password or options.token
    if encrypted or not secret or is_loopback(parts.hostname or "") or parts.netloc in _warned:
        return
    _warned.add(parts.netloc)
    log.warning(
        "the password for NATS goes over the network in the clear: use tls://",
        extra={"server": parts.netloc.rpartition("@")[2]},
    )


def is_loopback(host: str) -> bool:
    """Say whether ``host`` is this one."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _warn_of_readers(option: str, path: str) -> None:
    try:
        open_to_all = Path(path).stat().st_mode & stat.S_IROTH
    except OSError:
        return
    if open_to_all and path not in _warned:
        _warned.add(path)
        log.warning("nats %s: every user of this machine may read %s: chmod o-r", option, path)
