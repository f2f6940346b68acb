"""What holds for every request: who is asked for, and what a browser may do with the answer.

A page of another site that a person's browser shows can make its own name point at 127.0.0.1 and
would then be of one origin with this page. So the page answers only to names that nobody can have
point here by a public name server: IP addresses, localhost, single words, and the name that it was
told to listen on. Probes and scrapers may use any name: what they are told is no secret.
"""

import logging
import re
from collections.abc import Collection, Mapping
from ipaddress import ip_address
from typing import Final

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("relay.http")

_WORD: Final = re.compile(r"[a-z0-9_-]{1,63}")
_PRIVATE: Final = (".localhost", ".local", ".internal", ".svc", ".home.arpa")
"""Ends of names that no public name server answers for."""

_HEADERS: Final[Mapping[bytes, bytes]] = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
}
_WRONG_NAME: Final = (
    "This page answers to IP addresses, localhost and private names only. A proxy in front of it"
    " has to set the Host header to the address that it forwards to.\n"
)


class Hosts:
    """Wraps an application."""

    def __init__(self, app: ASGIApp, *, own_name: str, any_name: Collection[str]) -> None:
        """Check the hosts of ``app``.

        Args:
            app: what answers.
            own_name: the host that the server was told to listen on.
            any_name: paths that answer whatever the server is called.
        """
        self._app = app
        self._own_name = own_name.lower()
        self._any_name = any_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        begun = False

        async def send_on(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                given = {name for name, _ in message["headers"]}
                more = [(name, text) for name, text in _HEADERS.items() if name not in given]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        app: ASGIApp = self._app
        if scope["path"] not in self._any_name and not self._is_ours(_host(scope)):
            app = PlainTextResponse(_WRONG_NAME, 421)
        try:
            await app(scope, receive, send_on)
        except Exception:
            # A bug of the page is the page's affair: it must not reach the relay's tasks.
            log.exception("answering a request failed", extra={"path": scope["path"]})
            if not begun:
                await PlainTextResponse("a bug: the log has it\n", 500)(scope, receive, send_on)

    def _is_ours(self, host: str) -> bool:
        name = _without_port(host).lower().rstrip(".")
        if _WORD.fullmatch(name) or name.endswith(_PRIVATE) or name == self._own_name:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True


def _host(scope: Scope) -> str:
    return next((text.decode("latin-1") for name, text in scope["headers"] if name == b"host"), "")


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
