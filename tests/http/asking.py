"""A relay with its page, and plain HTTP to ask it by."""

import http.client
import json
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.system.harness import RelayProcess, until

TOKEN = "0123456789abcdef-test-token"

DEAD = """
with written as (
  -- older than every transaction: no relay takes the row for a new one
  insert into relay.outbox (id, xid, subject, payload_bytes) overriding system value
  select i, '0', 'orders.placed', 'c4n4ry-payload'
    from unnest(%(ids)s::bigint[]) as i
  returning id, event_id, created_at
)
insert into relay.parked (
  id, event_id, created_at, subject, key, attempts, last_error, last_code, dead_at, next_attempt_at
)
select w.id, w.event_id, w.created_at, %(subject)s, %(key)s, 10, %(error)s, 10054,
       case when %(dead)s then clock_timestamp() - interval '1 hour' end,
       case when not %(dead)s then clock_timestamp() + interval '1 hour' end
  from written as w
"""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Served:
    """What listens on one port of 127.0.0.1."""

    def __init__(self, port: int, relay: RelayProcess) -> None:
        self.port = port
        self.relay = relay
        self.url = f"http://127.0.0.1:{port}/"

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        body: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            text = answer.read().decode()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, told, text)
        finally:
            connection.close()

    def retry(self, body: object, *, token: str | None = TOKEN, **headers: str) -> Answer:
        given = {"Content-Type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        text = body if isinstance(body, str) else json.dumps(body)
        return self.ask("/retry", method="POST", body=text, headers=given)

    @property
    def ready(self) -> tuple[int, Any]:
        answer = self.ask("/readyz")
        return answer.status, answer.json

    def reason(self, check: str) -> str:
        said: str = self.ready[1]["checks"][check]["reason"]
        return said

    def is_role(self, role: str) -> bool:
        return bool(self.ready[1]["role"] == role)

    @contextmanager
    def watching(self) -> Iterator[Iterator[dict[str, Any]]]:
        """Yield the snapshots as they come."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", "/events")
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            yield _snapshots(answer)
        finally:
            connection.close()


def _snapshots(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    event = ""
    for line in answer:
        text = line.decode().rstrip("\n")
        if text.startswith("event: "):
            event = text.removeprefix("event: ")
        elif text.startswith("data: ") and event == "state":
            yield json.loads(text.removeprefix("data: "))


@contextmanager
def serving(dsn: str, nats_url: str, log: Path, **settings: str) -> Iterator[Served]:
    """Run a relay that shows its page on a port of its own."""
    with RelayProcess(dsn, nats_url, log, **{"http": "127.0.0.1:0"} | settings) as relay:
        until(lambda: port_of(log) is not None or relay.process.poll() is not None, 20)
        port = port_of(log)
        assert port is not None, log.read_text()
        yield Served(port, relay)


def port_of(log: Path) -> int | None:
    found = re.search(r'"url": "http://[^"]*:(\d+)/"', log.read_text())
    return int(found[1]) if found else None


def park(
    dsn: str,
    *ids: int,
    dead: bool = True,
    key: str | None = "k",
    subject: str = "orders.placed",
    error: str = "no",
) -> None:
    with psycopg.connect(dsn, autocommit=True) as look:
        given = {"ids": list(ids), "dead": dead, "key": key, "subject": subject, "error": error}
        look.execute(DEAD, given)
        look.execute(
            "select setval(pg_get_serial_sequence('relay.outbox', 'id'), max(id)) from relay.outbox"
        )


def emit(dsn: str, subject: str = "orders.placed", count: int = 1) -> None:
    with psycopg.connect(dsn, autocommit=True) as producer:
        producer.execute(
            "select relay.emit_bytes(%s, 'x', key => i::text) from generate_series(1, %s) as i",
            (subject, count),
        )


def asked_for(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as look:
        return look.execute(statement.encode()).fetchall()


def settled(dsn: str, events: int) -> bool:
    """Whether so many events are written, and all of them are stored."""
    statement = (
        "select (select count(*) from relay.outbox) - (select count(*) from relay.pending)"
        " - (select count(*) from relay.parked)"
    )
    return asked_for(dsn, statement) == [(events,)]


def listening(pid: int) -> list[str]:
    """Return the process's own listening sockets, as Linux knows them."""
    inodes = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        target = str(each.readlink())
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[9] in inodes:
                found.append(columns[1])
    return found


def has_ended(connection: socket.socket, within: float = 0.01) -> bool:
    """Whether the server has ended it, once all that it sent is read."""
    connection.settimeout(within)
    try:
        while connection.recv(65_536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True
