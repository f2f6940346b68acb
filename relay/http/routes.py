"""What is asked, who may ask, and what answers.

    GET  /         the page                    GET  /livez    200 while the loop turns, else 503
    GET  /events   what it shows, live         GET  /readyz   200 while ready, else 503
    POST /retry    dead events                  GET  /metrics  for Prometheus

The probes are answered from memory, to any client. The page and the metrics have a budget
(``limits``); beyond it the answer is 429. No answer holds a part of the configuration or a secret.

``/retry`` needs the token (``access``), a JSON body, which another site can't send without being
allowed to, and, from a browser, this very origin.
"""

import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Annotated, Final, Literal

import anyio
import anyio.to_thread
from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from relay.app import Relay
from relay.http.access import (
    Gate,
    Token,
    answer,
    headers,
    is_from_this_page,
    page,
)
from relay.http.database import MOST_EVENTS, Answer, Database
from relay.http.feed import Events, Feed
from relay.http.health import Health, Latency
from relay.http.limits import address_of, serve
from relay.http.page_state import PageState
from relay.otel.export import Scrape
from relay.settings import Settings

log = logging.getLogger("relay.http")

_NO_METRICS: Final = (
    'metrics are not served here: pip install "relay-outbox[prometheus]", leave'
    " OTEL_METRICS_EXPORTER unset or set it to prometheus, and start the relay again\n"
)
_MOST_BODY_BYTES: Final = 1_536
_BODY_WITHIN: Final = 5.0


Id = Annotated[int, BeforeValidator(str), Field(gt=0, lt=2**63)]


def _as_list(given: object) -> object:
    return given if given == "all" or isinstance(given, list) else [given]


class Retry(BaseModel):
    """The body of ``/retry``."""

    ids: Annotated[
        Literal["all"] | Annotated[list[Id], Field(min_length=1, max_length=MOST_EVENTS)],
        BeforeValidator(_as_list),
        Field(validation_alias=AliasChoices("ids", "id")),
    ]


async def serve_page(
    settings: Settings,
    relay: Relay,
    health: Health,
    latency: Latency,
    sockets: Sequence[socket.socket],
    *,
    own_name: str,
    scrape: Scrape | None,
) -> None:
    """Serve probes, page and metrics on ``sockets`` until cancelled, and close them.

    Args:
        settings: where the database is, and the token.
        relay: what is shown.
        health: whether it is well.
        latency: of its pages.
        sockets: listening ones.
        own_name: the host that they listen on.
        scrape: writes the metrics; None if they are off.
    """
    secret = settings.http_token.get_secret_value() if settings.http_token else None
    token = Token(secret, file=settings.secret_files.get("http_token"))
    feed = Feed()
    database = Database(settings.conninfo, settings.schema_name, feed)
    state = PageState(relay, health, latency, database=database, feed=feed, settings=settings)
    routes = Routes(health, token, database.retry, scrape)
    app = routes.app(Events(feed, state.greeting), own_name=own_name)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(state.run)
        tasks.start_soon(database.run)
        tasks.start_soon(serve, app, sockets, headers())


class Routes:
    """Answers requests."""

    def __init__(
        self,
        health: Health,
        token: Token,
        retry: Callable[[Sequence[int] | None, str], Awaitable[Answer]],
        scrape: Scrape | None,
    ) -> None:
        """Answer by ``health``; let whoever knows ``token`` ``retry``."""
        self._health = health
        self._token = token
        self._retry = retry
        self._scrape = scrape
        self._one_scrape = anyio.CapacityLimiter(1)

    def app(self, events: ASGIApp, *, own_name: str) -> ASGIApp:
        """Return the application; ``events`` answers ``/events``."""
        return Starlette(
            routes=[
                Route("/livez", self.live),
                Route("/readyz", self.ready),
                Route("/", self.show),
                Route("/events", events, methods=["GET"]),
                Route("/metrics", self.metrics),
                Route("/retry", self.retry, methods=["POST"]),
            ],
            middleware=[Middleware(Gate, own_name)],
            # A bug of the page must not reach the relay's tasks.
            exception_handlers={Exception: _log_bug},
        )

    async def live(self, _: Request) -> Response:
        """Say whether the loop turns."""
        alive = self._health.is_alive
        ago = round(self._health.last_turn_ago, 1)
        content = {"alive": alive, "last_turn_seconds_ago": ago}
        return JSONResponse(content, 200 if alive else 503)

    async def ready(self, _: Request) -> Response:
        """Say whether the relay does what it is there for, and each reason."""
        checks = self._health.checks()
        ready = all(check.ok for check in checks)
        content = {
            "ready": ready,
            "role": self._health.state.role,
            "checks": {check.name: {"ok": check.ok, "reason": check.reason} for check in checks},
        }
        return JSONResponse(content, 200 if ready else 503)

    async def show(self, _: Request) -> Response:
        """Show the page."""
        return HTMLResponse(page()[0])

    async def metrics(self, _: Request) -> Response:
        """Show the metrics, or say how to have them."""
        if self._scrape is None:
            return PlainTextResponse(_NO_METRICS, 404)
        # In a thread, for a collection takes milliseconds; one at a time, however many ask.
        content, media_type = await anyio.to_thread.run_sync(self._scrape, limiter=self._one_scrape)
        return Response(content, media_type=media_type)

    async def retry(self, request: Request) -> Response:
        """Let dead events be tried again."""
        if not is_from_this_page(request):
            return answer(403, "ask from this page itself")
        address = address_of(request.scope)
        refusal = self._token.refuse(address, request.headers.get("authorization"))
        if refusal is not None:
            return refusal
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            return answer(415, "send application/json")
        body = await _body(request)
        if body is None:
            return answer(413, f"send no more than {MOST_EVENTS} ids, and at once")
        try:
            wanted = Retry.model_validate_json(body)
        except ValidationError:
            return answer(400, 'send {"id": "17"}, the id of a dead event; or {"ids": "all"}')
        ids = None if wanted.ids == "all" else wanted.ids
        by = f"status page, from {address or 'an unknown address'}"
        return answer(*await self._retry(ids, by))


async def _log_bug(request: Request, error: Exception) -> Response:
    log.error("answering a request failed", exc_info=error, extra={"path": request.url.path})
    return PlainTextResponse("a bug: the log has it\n", 500)


async def _body(request: Request) -> bytes | None:
    """Read the body; None if it is too long or takes too long."""
    body = b""
    with anyio.move_on_after(_BODY_WITHIN), suppress(ClientDisconnect):
        async for part in request.stream():
            body += part
            if len(body) > _MOST_BODY_BYTES:
                return None
        return body
    return None
