"""What is asked, and what answers.

    GET  /         the page                    GET  /livez    200 while the loop turns, else 503
    GET  /events   what it shows, live         GET  /readyz   200 while ready, else 503
    POST /retry    a dead event, by its id     GET  /metrics  for Prometheus

The two probes are answered from memory, before anything else is looked at, and to whoever asks.
Page and metrics have a budget (``limits``), beyond which they are answered with 429. No answer
holds a part of the configuration or a secret. ``/retry`` is taken from this page alone: it needs
the token, a JSON body (which another site can't send without being allowed to), and, from a
browser, this very origin.
"""

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from relay.http.hosts import Hosts
from relay.http.limits import Allowance, Budget
from relay.http.outside import Budgeted, ProbeAnswer, Probes
from relay.http.page import page
from relay.http.retrying import Answer
from relay.http.seen import Seen
from relay.http.token import Token
from relay.otel.plan import Scrape

ANY_NAME: Final = ("/livez", "/readyz", "/metrics")
"""What answers whatever the server is called."""

PAGES: Final = (Allowance(50, 100), Allowance(20, 50))
METRICS: Final = (Allowance(10, 20), Allowance(5, 10))
"""A second and at once; for all, and for each address."""

_NO_METRICS: Final = (
    'metrics are not served here: pip install "relay-outbox[prometheus]", leave'
    " OTEL_METRICS_EXPORTER unset or set it to prometheus, and start the relay again\n"
)
_MOST_BODY: Final = 1_024
_BODY_WITHIN: Final = 5.0
_LARGEST_ID: Final = 2**63 - 1


class Routes:
    """Answers requests."""

    def __init__(
        self,
        seen: Seen,
        token: Token,
        retry: Callable[[int, str], Awaitable[Answer]],
        scrape: Scrape | None,
    ) -> None:
        """Answer by what is ``seen``; let whom ``token`` lets in ``retry``."""
        self._seen = seen
        self._token = token
        self._retry = retry
        self._scrape = scrape
        self._one_scrape = anyio.CapacityLimiter(1)

    def app(self, events: ASGIApp, *, own_name: str) -> ASGIApp:
        """Return the whole application; ``events`` answers to ``/events``."""
        routes = [
            Route("/", self.show, methods=["GET"]),
            Route("/events", events, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/retry", self.retry, methods=["POST"]),
        ]
        pages, metrics = Budget(*PAGES), Budget(*METRICS)
        budgets = {"/": pages, "/events": pages, "/metrics": metrics}
        probes = Probes(Budgeted(Starlette(routes=routes), budgets), self.live, self.ready)
        return Hosts(probes, own_name=own_name, any_name=ANY_NAME)

    async def show(self, _: Request) -> Response:
        """Show the page."""
        shown = page()
        headers = {"content-security-policy": shown.policy}
        return Response(shown.html, media_type="text/html; charset=utf-8", headers=headers)

    def live(self) -> ProbeAnswer:
        """Say whether the loop turns."""
        alive = self._seen.heartbeat.alive
        said = {"alive": alive, "last_turn_seconds_ago": round(self._seen.heartbeat.age, 1)}
        return alive, said

    def ready(self) -> ProbeAnswer:
        """Say whether the relay does what it is there for, and each reason."""
        checks = self._seen.health.checks()
        ready = all(check.ok for check in checks)
        said = {
            "ready": ready,
            "role": self._seen.health.role,
            "checks": {check.name: {"ok": check.ok, "reason": check.reason} for check in checks},
        }
        return ready, said

    async def metrics(self, _: Request) -> Response:
        """Show the metrics, or say how to have them."""
        if self._scrape is None:
            return PlainTextResponse(_NO_METRICS, 404)
        # In a thread, for a collection takes milliseconds; one at a time, however many ask.
        content, media_type = await anyio.to_thread.run_sync(
            self._scrape, abandon_on_cancel=True, limiter=self._one_scrape
        )
        return Response(content, media_type=media_type)

    async def retry(self, request: Request) -> Response:
        """Let one dead event be tried again."""
        if not _from_this_page(request):
            return _answer(403, "ask from this page itself")
        address = request.client.host if request.client else ""
        refusal = self._token.check(address, request.headers.get("authorization"))
        if refusal is not None:
            more = {"www-authenticate": "Bearer"} if refusal.status == 401 else {}  # noqa: PLR2004
            if refusal.retry_after is not None:
                more["retry-after"] = str(refusal.retry_after)
            return _answer(refusal.status, refusal.says, more)
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            return _answer(415, "send application/json")
        body = await _body(request)
        if body is None:
            return _answer(413, "send no more than an id, and at once")
        id_ = _id(body)
        if id_ is None:
            return _answer(400, 'send {"id": "17"}, the id of a dead event')
        answer = await self._retry(id_, f"status page, from {address or 'an unknown address'}")
        return _answer(answer.status, answer.says)


def _answer(status: int, says: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"says": says}, status, headers=headers)


def _from_this_page(request: Request) -> bool:
    """Say whether a browser, if it is one, asks for this very page."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    host = request.headers.get("host", "")
    same = origin is None or origin.partition("://")[2].lower() == host.lower()
    return site in {"same-origin", "none"} and same


async def _body(request: Request) -> bytes | None:
    """Read the body; None if it is too long or takes too long."""
    body = b""
    with anyio.move_on_after(_BODY_WITHIN), suppress(ClientDisconnect):
        async for part in request.stream():
            body += part
            if len(body) > _MOST_BODY:
                return None
        return body
    return None


def _id(body: bytes) -> int | None:
    try:
        asked: Any = json.loads(body)
    except ValueError:
        return None
    given = str(asked.get("id")) if isinstance(asked, dict) else ""
    id_ = int(given) if given.isascii() and given.isdecimal() and len(given) < 20 else 0  # noqa: PLR2004
    return id_ if 0 < id_ <= _LARGEST_ID else None
