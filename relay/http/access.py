"""Who may ask: hosts, the token, budgets; and what a browser may do with an answer.

A page of another site that a person's browser shows can make its own name point at 127.0.0.1, and
would then be of one origin with this page. So the page answers only to names that no public name
server makes point here: IP addresses, localhost, single words, private suffixes, and the name that
it was told to listen on. Probes and metrics may use any name: what they tell is no secret.

The token comes in the Authorization header, never in a URL, which logs and histories keep. Of wrong
tokens from one address ten are answered, then one in ten seconds, the others with 429. The right
token is let in whatever came before: behind one proxy all clients have one address. At that rate
nobody guesses a token of 16 characters.
"""

import base64
import hmac
import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.resources import files
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from relay.http.limits import Allowance, Budget, address_of

PAGES: Final = (Allowance(50, 100), Allowance(20, 50))
METRICS: Final = (Allowance(10, 20), Allowance(5, 10))
"""A second and at once; for all addresses, and for each."""

LEAST: Final = 16
"""Characters of a token, at least."""

MOST_FAILURES: Final = 10
FORGIVEN_EVERY: Final = 10.0
_WRONG_TOKENS: Final = (Allowance(1e9, 1e9), Allowance(1 / FORGIVEN_EVERY, MOST_FAILURES))

_ANY_NAME: Final = ("/livez", "/readyz", "/metrics")
_WORD: Final = re.compile(r"[a-z0-9_-]{1,63}")
_PRIVATE: Final = (".localhost", ".local", ".internal", ".svc", ".home.arpa")
"""Ends of names that no public name server answers for."""

_TOO_OFTEN: Final = "asked for too often: wait a little\n"
_WRONG_NAME: Final = (
    "This page answers to IP addresses, localhost and private names only. A proxy in front of it"
    " has to set the Host header to the address that it forwards to.\n"
)


@cache
def page() -> tuple[str, str]:
    """Return the page, one document that asks for nothing else, and its Content-Security-Policy.

    Style and script are allowed by their hashes alone: nothing else that gets into the page can
    run or load. The script writes text and attributes, never markup, and the policy has the browser
    hold it to that.
    """
    html, style, charts, script = (
        (files("relay.http") / name).read_text(encoding="utf-8")
        for name in ("page.html", "page.css", "charts.js", "page.js")
    )
    script = f"{charts}\n{script}"
    policy = (
        "default-src 'none'",
        f"style-src {_hash(style)}",
        f"script-src {_hash(script)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    html = html.replace("<!-- style -->", f"<style>{style}</style>")
    html = html.replace("<!-- script -->", f"<script>{script}</script>")
    return html, "; ".join(policy)


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(content.encode()).digest()).decode()}'"


def headers() -> dict[str, str]:
    """Return what each answer tells a browser; the policy is the page's."""
    return {
        "cache-control": "no-store",
        "content-security-policy": page()[1],
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }


class Gate:
    """Stands before the routes: refuses strange hosts, and what is asked for too often."""

    def __init__(self, app: ASGIApp, own_name: str) -> None:
        """Stand before ``app``, which listens on the host ``own_name``."""
        self._app = app
        self._own_name = own_name.lower()
        pages = Budget(*PAGES)
        self._budgets = {"/": pages, "/events": pages, "/metrics": Budget(*METRICS)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        app, path = self._app, scope["path"]
        budget = self._budgets.get(path)
        host = Request(scope).headers.get("host", "")
        if path not in _ANY_NAME and not is_private(host, self._own_name):
            app = PlainTextResponse(_WRONG_NAME, 421)
        elif budget is not None and not budget.spend(address_of(scope)):
            app = PlainTextResponse(_TOO_OFTEN, 429, {"retry-after": "1", "connection": "close"})
        await app(scope, receive, send)


def is_private(host: str, own_name: str) -> bool:
    """Say whether a Host header holds a name that is surely this server's."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    name = name.lower().rstrip(".")
    if _WORD.fullmatch(name) or name.endswith(_PRIVATE) or name == own_name:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class Token:
    """Knows the token, and which addresses gave wrong ones lately."""

    def __init__(
        self,
        token: str | None,
        now: Callable[[], float] = time.monotonic,
        file: Path | None = None,
    ) -> None:
        """Let nobody in if ``token`` is None; each request looks into ``file`` for a newer one."""
        self._digest = None if token is None else sha256(token.encode()).digest()
        self._file = file
        self._wrong = Budget(*_WRONG_TOKENS, now)

    def refuse(self, address: str, authorization: str | None) -> Response | None:
        """Return the answer to a request without the right token; None lets it in."""
        if self._digest is None:
            return answer(403, "this page only shows: set RELAY_HTTP_TOKEN to retry from here")
        if self._file is not None:
            with suppress(OSError, ValueError):
                token = self._file.read_text(encoding="utf-8").rstrip("\r\n")
                if len(token) >= LEAST:  # one that is half written counts as not there
                    self._digest = sha256(token.encode()).digest()
        scheme, _, given = (authorization or "").partition(" ")
        digest = sha256(given.strip().encode()).digest()  # of one length, whatever was given
        if hmac.compare_digest(digest, self._digest) and scheme.lower() == "bearer":
            return None
        if self._wrong.left(address) < 1:
            retry_after = str(int(FORGIVEN_EVERY))
            return answer(429, "too many wrong tokens: wait a little", retry_after=retry_after)
        if authorization is None:
            return answer(401, "this needs the token", www_authenticate="Bearer")
        self._wrong.spend(address)
        return answer(401, "the token is wrong", www_authenticate="Bearer")


def is_from_this_page(request: Request) -> bool:
    """Say whether a browser, if it is one, asks for this very page."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    host = request.headers.get("host", "")
    is_same = origin is None or origin.partition("://")[2].lower() == host.lower()
    return site in {"same-origin", "none"} and is_same


def answer(status: int, sentence: str, **headers: str) -> Response:
    """Return an answer of one sentence, with ``headers`` by their names with underscores."""
    names = {name.replace("_", "-"): text for name, text in headers.items()}
    return JSONResponse({"says": sentence}, status, headers=names)
