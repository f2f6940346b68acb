"""The site: page_state, database and server of one relay, run together."""

import socket
from collections.abc import Awaitable, Callable, Sequence

import anyio

from relay.http.database import Database
from relay.http.events import Events
from relay.http.feed import Feed
from relay.http.page_state import PageState
from relay.http.retrying import Answer, Retries
from relay.http.routes import Routes
from relay.http.seen import Seen
from relay.http.server import serve
from relay.http.token import Token
from relay.otel.plan import Scrape
from relay.settings import Settings


async def run_site(
    settings: Settings,
    seen: Seen,
    sockets: Sequence[socket.socket],
    *,
    own_name: str,
    scrape: Scrape | None,
) -> None:
    """Show what is ``seen`` on ``sockets`` until cancelled, and close them.

    Args:
        settings: where the database is, and the token.
        seen: the relay.
        sockets: listening ones.
        own_name: the host that they listen on.
        scrape: writes the metrics; None if they are off.
    """
    dsn, schema = settings.conninfo, settings.schema_name
    token = settings.http_token.get_secret_value() if settings.http_token else None
    feed = Feed()
    database = Database(dsn, schema, feed)
    page_state = PageState(
        seen, database, feed, stream=settings.stream, can_retry=token is not None
    )
    retry = _then(Retries(dsn, schema).retry, database.look_at_once)
    routes = Routes(seen, Token(token), retry, scrape)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(page_state.run)
        tasks.start_soon(database.run)
        tasks.start_soon(
            serve, routes.app(Events(feed, page_state.hello), own_name=own_name), sockets
        )


def _then(
    retry: Callable[[int, str], Awaitable[Answer]], look: Callable[[], None]
) -> Callable[[int, str], Awaitable[Answer]]:
    """Return ``retry``, after which everybody sees what has become of it."""

    async def and_look(id_: int, by: str) -> Answer:
        answer = await retry(id_, by)
        look()
        return answer

    return and_look
