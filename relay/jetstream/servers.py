"""The servers of one cluster: those configured first, then those that the cluster told of.

The one that failed goes to the end, so that a lost connection is followed by one elsewhere.
"""

from collections import deque
from urllib.parse import urlsplit

from relay.errors import BusLoginRefused, BusOutage, SettingsError
from relay.jetstream.connection import Connection, open_connection
from relay.jetstream.options import BusOptions

_MOST_SERVERS = 64
_PORT = 4222


class Servers:
    """Every server that is known, in the order in which they are tried."""

    def __init__(self, options: BusOptions) -> None:
        """Begin with the configured URLs.

        Raises:
            SettingsError: a URL is not ``nats://host`` or ``tls://host``.
        """
        self._options = options
        self._known: deque[tuple[str, str | None]] = deque()
        for url in options.urls:
            whole = url if "://" in url else f"nats://{url}"
            scheme, host = _scheme_and_host(whole)
            if scheme not in {"nats", "tls"} or not host:
                shown = f"{scheme}://{host}"
                raise SettingsError([f"nats urls: {shown}: must be nats://host or tls://host"])
            self._known.append((whole, None))
        if not self._known:
            raise SettingsError(["nats urls: there is none"])

    async def connect(self) -> Connection:
        """Try each server once, in turn.

        Raises:
            BusLoginRefused: every one of them refused us as we are set up.
            BusOutage: none of them took us; the reasons are in the text.
            SettingsError: a credentials or certificate file is not usable.
        """
        refusals: list[BusOutage] = []
        for _ in range(len(self._known)):
            url, tls_name = self._known[0]
            self._known.rotate(-1)
            try:
                connection = await open_connection(self._options, url, tls_name)
            except BusOutage as outage:
                refusals.append(outage)
                continue
            self._learn(connection, url, tls_name)
            return connection
        kind = BusOutage
        if all(isinstance(each, BusLoginRefused) for each in refusals):
            kind = BusLoginRefused
        raise kind("; ".join(map(str, refusals)))

    def _learn(self, connection: Connection, url: str, tls_name: str | None) -> None:
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        known = {urlsplit(each).netloc.rpartition("@")[2] for each, _ in self._known}
        for found in connection.wire.discovered_servers:
            if found.netloc not in known and len(self._known) < _MOST_SERVERS:
                at = f"{user}@{found.netloc}" if user else found.netloc
                self._known.appendleft((f"{parts.scheme}://{at}", tls_name or parts.hostname))


def _scheme_and_host(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
        usable = (parts.port or _PORT) > 0
    except ValueError:
        return url.partition("://")[0], ""
    return parts.scheme, (parts.hostname or "") if usable else ""
