"""The checks of NATS: the servers, the login, the reply inbox, JetStream, the account.

What decides is ``relay.jetstream.servers``, which the relay itself connects by; the words of a
failed connection say which check has failed. Nothing is made or published, but for the questions to
JetStream's API. The streams: ``streams``.
"""

import re
from dataclasses import replace
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import anyio

from relay.app import bus_options
from relay.doctor.postgres import Database
from relay.doctor.report import Check, Seen, check, fault, ok, skipped, warning
from relay.errors import BusOutage, RelayError, SettingsError
from relay.jetstream.answers import Json, whole
from relay.jetstream.api import Account, Api, DeniedError, NoAnswerError, RejectedError
from relay.jetstream.codes import code_of
from relay.jetstream.connection import Connection
from relay.jetstream.servers import Servers, is_loopback
from relay.settings import Settings

CONNECT_WITHIN: Final = 4.0
ASK_WITHIN: Final = 2.0
"""Seconds."""

LARGEST_EVENT_BYTES: Final = 1 << 20
"""The largest payload that the outbox takes (see sql/functions/publishable.sql)."""

ALMOST: Final = 0.9
"""The share of a limit from which on it is a warning."""

STAGES: Final = (
    (
        "nats-tls",
        r"TLS was asked for, but",
        "mend RELAY_NATS_URL: nats:// for a server without TLS; or give the server a tls block",
    ),
    (
        "nats-tls",
        r"certificate|tls_ca|tls_cert|tls_key|\bSSL\b|\bTLS\b|SSLV3|handshake",
        "mend RELAY_NATS_TLS_CA, RELAY_NATS_TLS_CERT, RELAY_NATS_TLS_KEY, or the server's own",
    ),
    (
        "nats-login",
        r"(?i)authorization violation|authentication|creds|nkey",
        (
            "mend the login: one of RELAY_NATS_CREDS, RELAY_NATS_NKEY_SEED, RELAY_NATS_TOKEN, or"
            " RELAY_NATS_USER with RELAY_NATS_PASSWORD; or make the user known to the server"
        ),
    ),
    (
        "nats",
        r"refused",
        "start nats-server there, or mend host and port in RELAY_NATS_URL",
    ),
    (
        "nats",
        r"(?i)name or service|resol|getaddrinfo|nodename",
        "mend the host in RELAY_NATS_URL, or the name service",
    ),
    (
        "nats",
        r"",
        "look whether nats-server runs at this address, is frozen, or is cut off by a firewall",
    ),
)
"""Of the words that fit, the first: the check that has failed, and the remedy."""

PRIVATE: Final = (
    "set RELAY_NATS_INBOX_PREFIX=_INBOX_relay, and give every other user of the account"
    ' publish: { deny: "_INBOX_relay.>" } and subscribe: { deny: "_INBOX_relay.>" }'
)


CHECKS: Final = list[Check[Any]]()
_check = partial(check, CHECKS)


class Broker:
    """The servers, and what was learnt of them so far. ``database`` knows the subjects."""

    def __init__(self, settings: Settings, database: Database, *, try_publish: bool) -> None:
        """Connect to nothing yet."""
        self.settings = settings
        self.database = database
        self.try_publish = try_publish
        # A stream is made by ``run`` alone.
        self.options = replace(
            bus_options(settings),
            name="relay doctor",
            stream_create=False,
            connect_timeout=CONNECT_WITHIN,
            ack_timeout=ASK_WITHIN,
        )
        self.account = Account(0, None)
        self._connection: Connection | None = None
        self._failed = ""
        self._why = ok("")
        self._away: list[Seen] = []
        self._info: Json | RelayError = {}

    @property
    def connection(self) -> Connection:
        """The connection.

        Raises:
            BusOutage: there is none, or it is lost.
        """
        lost = "there is none" if self._connection is None else self._connection.lost
        if self._connection is None or lost is not None:
            raise BusOutage(f"connection lost: {lost}")
        return self._connection

    @property
    def api(self) -> Api:
        """JetStream's API over the connection. Raises as ``connection``."""
        return Api(self.connection, self.options.api)

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.drop("done")

    # The connection.

    @_check("nats", "whether each server answers", deadline=CONNECT_WITHIN + 1.0)
    async def _servers(self) -> list[Seen]:
        results: dict[str, Connection | RelayError] = {}

        async def attempt(url: str) -> None:
            try:
                results[url] = await Servers(replace(self.options, urls=(url,))).connect()
            except (BusOutage, SettingsError) as error:
                results[url] = error

        async with anyio.create_task_group() as tasks:
            for url in self.options.urls:
                tasks.start_soon(attempt, url)
        failures = []
        for url in self.options.urls:
            result = results[url]
            if isinstance(result, RelayError):
                failures.append(str(result))
            elif self._connection is None:
                self._connection = result
            else:
                result.drop("one is enough")
        if self._connection is None:
            why = "; ".join(dict.fromkeys(failures))
            self._failed, remedy = _stage_of(why)
            self._why = fault(why, remedy)
        else:
            self._away = [warning(why, _stage_of(why)[1]) for why in failures]
        return self._passed("nats", ", ".join(map(_place, self.options.urls))) + self._away

    @_check("nats-tls", "whether the connection is encrypted", "nats")
    async def _tls(self) -> list[Seen]:
        if self._connection is None:
            return self._passed("nats-tls", "not refused")
        if self.connection.wire.encrypted:
            return [ok("encrypted, and the server's name is checked")]
        host, _ = self.connection.address
        if is_loopback(host):
            return [ok("not needed: the server is on this host")]
        seen = f"what is sent to {host} is not encrypted"
        return [warning(seen, "give nats-server a tls block, and use tls:// in RELAY_NATS_URL")]

    @_check("nats-login", "whether it is let in", "nats-tls")
    async def _login(self) -> list[Seen]:
        names = ("creds", "nkey_seed", "user", "token")
        by = [name for name in names if getattr(self.options, name) is not None]
        return self._passed("nats-login", f"let in, by {by[0] if by else 'no login at all'}")

    @_check("nats-version", "the server, and its `max_payload`", "nats-login")
    async def _version(self) -> list[Seen]:
        info = self.connection.server_info
        seen = f"nats-server {info.get('version')}, {info.get('server_name')}"
        most = self.connection.wire.max_payload
        if most < LARGEST_EVENT_BYTES:
            seen += f": max_payload is {most} bytes, and an event may have {LARGEST_EVENT_BYTES}"
            return [warning(seen, f"set max_payload: {2 * LARGEST_EVENT_BYTES} in nats-server")]
        return [ok(f"{seen}, max_payload {most} bytes")]

    @_check("inbox", "whether answers reach the relay, and who else may", "nats-login")
    async def _inbox(self) -> list[Seen]:
        try:
            self._info = await self.api.request("INFO", ASK_WITHIN)
        except (RejectedError, DeniedError, NoAnswerError) as error:
            self._info = error
        prefix = self.options.inbox_prefix
        forbidden = self._connection.forbidden_inbox if self._connection else None
        if forbidden:
            seen = f"the login may not subscribe to its replies: {forbidden}"
            remedy = f'allow subscribe: "{prefix}.>", or set RELAY_NATS_INBOX_PREFIX to one allowed'
            return [fault(seen, remedy)]
        if prefix == "_INBOX":
            seen = "answers come below _INBOX, where any user of the account may answer first"
            return [warning(seen, PRIVATE)]
        return [ok(f"answers come below {prefix}; that others are denied it can't be seen here")]

    @_check("jetstream", "whether it is on, its API level", "inbox")
    async def _jetstream(self) -> list[Seen]:
        info = self._info
        if isinstance(info, DeniedError):
            seen = f"{info}: the relay can't know about fast ingest, and does without"
            return [warning(seen, f'allow publish: "{self.options.api}.INFO"')]
        if isinstance(info, RejectedError):
            code = code_of(info.code, str(info))
            return [fault(f"{info}: {code.meaning}", code.remedy)]
        if isinstance(info, NoAnswerError) and not str(info).startswith("nobody"):
            return [fault(str(info), "look at nats-server: is it frozen, overloaded, or cut off?")]
        if isinstance(info, RelayError):
            remedy = "jetstream {} in the server's configuration, and for the account"
            if self.options.js_domain:
                remedy = f"mend RELAY_NATS_JS_DOMAIN ({self.options.js_domain}), or: {remedy}"
            return [fault(str(info), f"switch it on: {remedy}")]
        account = self.account = Account.read(info)
        path = "fast ingest" if account.can_batch else "the windowed path alone"
        of = f", domain {account.domain}" if account.domain else ""
        return [ok(f"API level {account.level}{of}: knows {path}")]

    @_check("account", "its limits", "jetstream")
    async def _limits(self) -> list[Seen]:
        info = self._info
        if isinstance(info, RelayError):
            return [skipped("JetStream does not say")]
        given = info.get("limits")
        found = []
        for used_by, limit_by in (("storage", "max_storage"), ("memory", "max_memory")):
            used, most = whole(info.get(used_by)) or 0, 0
            if isinstance(given, dict):
                most = whole(given.get(limit_by)) or 0  # -1, for none, is no whole number
            if most and used >= most * ALMOST:
                seen = f"the account uses {used} of {most} bytes of {used_by}"
                judge = fault if used >= most else warning
                found.append(judge(seen, f"raise {limit_by}, or delete or limit streams"))
        return found or [ok("the account is below its limits")]

    def _passed(self, stage: str, seen: str) -> list[Seen]:
        return [self._why] if stage == self._failed else [ok(seen)]


def _stage_of(why: str) -> tuple[str, str]:
    stage, _, remedy = next(each for each in STAGES if re.search(each[1], why))
    return stage, remedy


def _place(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
