"""What stands before the routes: the probes' answers, and the budgets of everything dear."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from relay.http.limits import Budget

_NOT_ALLOWED: Final = PlainTextResponse("Method Not Allowed", 405, {"allow": "GET, HEAD"})

ProbeAnswer = tuple[bool, Mapping[str, Any]]
"""Whether it is well, and what is said."""


class Probes:
    """Answers /livez and /readyz at once, and hands everything else on."""

    def __init__(
        self, app: ASGIApp, live: Callable[[], ProbeAnswer], ready: Callable[[], ProbeAnswer]
    ) -> None:
        """Stand before ``app``."""
        self._app = app
        self._answers = {"/livez": live, "/readyz": ready}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        answer = self._answers.get(scope["path"])
        if answer is None:
            await self._app(scope, receive, send)
            return
        if scope["method"] not in {"GET", "HEAD"}:
            await _NOT_ALLOWED(scope, receive, send)
            return
        is_well, said = answer()
        body = json.dumps(said, separators=(",", ":")).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        status = 200 if is_well else 503
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


class Budgeted:
    """Refuses what is asked for more often than it may be, and lets the connection go."""

    def __init__(self, app: ASGIApp, budgets: Mapping[str, Budget]) -> None:
        """Stand before ``app``; ``budgets`` by path, and what has none is handed on."""
        self._app = app
        self._budgets = budgets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        app: ASGIApp = self._app
        budget = self._budgets.get(scope["path"])
        client = scope.get("client")
        if budget is not None and not budget.spend(client[0] if client else ""):
            headers = {"retry-after": "1", "connection": "close"}
            app = PlainTextResponse("asked for too often: wait a little\n", 429, headers)
        await app(scope, receive, send)
