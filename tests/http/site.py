"""A site without a database behind it, in a thread of the test's own process."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import anyio.from_thread

from relay.facts import BusConnected, TermBegan
from relay.http import limits
from relay.http.access import Token
from relay.http.feed import Events, Feed
from relay.http.health import Health
from relay.http.routes import Routes
from relay.http.service import listen
from relay.settings.kinds import Address
from relay.state import RelayState
from tests.http.asking import TOKEN

Retry = Callable[[Sequence[int] | None, str], Awaitable[Any]]


@contextmanager
def site(retry: Retry | None = None) -> Iterator[int]:
    """Serve every route; yield the port."""
    health, feed = Health(RelayState()), Feed()
    for fact in (TermBegan("me", 1), BusConnected()):
        health.state.record(fact)
    nobody: Any = retry
    routes = Routes(health, Token(TOKEN), nobody, lambda: (b"relay_lag 0\n", "text/plain"))
    sockets = listen(Address("127.0.0.1", 0))
    app = routes.app(Events(feed, lambda: b"data: hello\n\n"), own_name="127.0.0.1")
    with anyio.from_thread.start_blocking_portal("asyncio", {"use_uvloop": True}) as portal:
        serving = portal.start_task_soon(limits.serve, app, sockets)
        yield sockets[0].getsockname()[1]
        serving.cancel()
