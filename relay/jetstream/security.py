"""From ``BusOptions`` to what nats-py's ``connect`` takes: log-in and TLS.

Files are opened here, so that one that can't be read is named with its option and not with a
failed connection. They are read at every connect: rotated credentials need no restart.

What is set up so that others can read a secret is a warning, once for each secret: a file that
every user of the machine may read, a password that goes over the network in the clear.
"""

import ipaddress
import logging
import ssl
import stat
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from relay.errors import SettingsError
from relay.jetstream.options import BusOptions

log = logging.getLogger(__name__)

_warned: set[str] = set()
"""Once a process: each connection opens the same files."""


def must_encrypt(options: BusOptions, url: str) -> bool:
    """Say whether TLS was asked for, by the URL or by any TLS option."""
    asked = (options.tls_ca, options.tls_cert, options.tls_key)
    return urlsplit(url).scheme == "tls" or any(asked)


def log_in(options: BusOptions) -> dict[str, Any]:
    """Name the log-in for nats-py. All that are set are handed on; it prefers creds, then nkey.

    Raises:
        SettingsError: a file can't be read, or is not what it should be.
    """
    how: dict[str, Any] = {
        "user": options.user,
        "password": options.password,
        "token": options.token,
    }
    if options.creds:
        text = _read("creds", options.creds)
        if "BEGIN NATS USER JWT" not in text or "BEGIN USER NKEY SEED" not in text:
            raise SettingsError([f"nats creds: {options.creds} holds no user JWT with its seed"])
        how["user_credentials"] = options.creds
        _warn_of_readers("creds", options.creds)
    if options.nkey_seed:
        how["nkeys_seed_str"] = _seed(options.nkey_seed)
    return {name: value for name, value in how.items() if value is not None}


def tls_context(options: BusOptions) -> ssl.SSLContext:
    """Make the TLS context: our own CA or the system's, and the client's certificate if given.

    Raises:
        SettingsError: a file can't be read, or is not what it should be.
    """
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
    sent = parts.username or options.password or options.token
    if encrypted or not sent or _is_loopback(parts.hostname or "") or parts.netloc in _warned:
        return
    _warned.add(parts.netloc)
    log.warning(
        "the password for NATS goes over the network in the clear: use tls://",
        extra={"server": parts.netloc.rpartition("@")[2]},
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _warn_of_readers(option: str, path: str) -> None:
    """Warn of a secret file that every user of the machine may read."""
    try:
        open_to_all = Path(path).stat().st_mode & stat.S_IROTH
    except OSError:
        return
    if open_to_all and path not in _warned:
        _warned.add(path)
        log.warning("nats %s: every user of this machine may read %s: chmod o-r", option, path)


def _seed(given: str) -> str:
    """Take an nkey seed, or find it in the file that ``given`` names. No error shows the value."""
    text = given.strip()
    if not _is_seed(text):
        try:
            lines = [line.strip() for line in Path(text).read_text().splitlines()]
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or type(error).__name__
            raise SettingsError([f"nats nkey_seed: neither a seed nor a file ({why})"]) from None
        _warn_of_readers("nkey_seed", given.strip())
        text = next((line for line in lines if _is_seed(line)), "")
    import nkeys  # noqa: PLC0415 - PyNaCl is loaded only where an nkey is used

    try:
        nkeys.from_seed(bytearray(text.encode())).wipe()
    except (nkeys.NkeysError, ValueError) as error:
        raise SettingsError(["nats nkey_seed: not a user's seed (SU...)"]) from error
    return text


def _is_seed(text: str) -> bool:
    return text.startswith("SU") and len(text) == len("SU") + 56 and text.isalnum()


def _read(option: str, path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, ValueError) as error:
        raise SettingsError([f"nats {option}: {path}: {error}"]) from error
