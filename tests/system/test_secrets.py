"""Secrets change under a relay that runs on; and nothing shows them, nor what events hold."""

import signal
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from relay import devstack
from tests.http.asking import Served, port_of
from tests.postgres.databases import rules_before
from tests.system import streams
from tests.system.harness import STREAM, RelayProcess, alone, connected, until

CANARY = "c4n4ry"
LARGEST = 4096
ASKED = "host all rotated 127.0.0.1/32 scram-sha-256\n"
EVENT = """
insert into relay.outbox (subject, key, payload, headers)
values ('orders.placed', 'k', json_build_object('card', %(text)s::text), jsonb_build_object(
  'x-secret', left(%(text)s, 99), 'baggage', left(%(text)s, 99),
  'traceparent', '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'))
"""
EVERYTHING_SAID = {
    "RELAY_LOG_LEVEL": "debug",
    "OTEL_TRACES_EXPORTER": "console",
    "OTEL_METRICS_EXPORTER": "console",
    "OTEL_METRIC_EXPORT_INTERVAL": "300",
    "OTEL_BSP_SCHEDULE_DELAY": "100",
}


class Files:
    """A file for each secret."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def change(self, name: str, number: int) -> str:
        secret = f"{CANARY}-{name}-secret-{number}"
        file = self.folder / name
        file.touch(mode=0o600)
        file.write_text(f"{secret}\n")
        return secret


def asking(token: str) -> str:
    return f'max_payload: {LARGEST}, authorization {{ token: "{token}" }}'


def write(owner: psycopg.Connection, length: int = 0) -> None:
    owner.execute(EVENT, {"text": f"{CANARY}-event".ljust(length, "x")})


def look(page: Served, owner: psycopg.Connection) -> str:
    """Everything that others can see of it, but for its log."""
    paths = ("/", "/livez", "/readyz", "/metrics", "/nothing")
    answers = [page.ask(path) for path in paths]
    answers += [page.retry({"id": 99}, token="wrong")]
    with page.watching() as snapshots:
        state = next(snapshots)
    process = Path(f"/proc/{page.relay.process.pid}")
    titles = [(process / name).read_text() for name in ("cmdline", "comm")]
    activity = owner.execute("select application_name, query from pg_stat_activity").fetchall()
    return f"{answers} {state} {titles} {activity}"


@pytest.mark.timeout(120)
def test_secrets_change_while_it_runs_and_nothing_shows_them(
    one_postgres: devstack.Postgres, one_dsn: str, tmp_path: Path
) -> None:
    """R-BOUND: an old password is an outage, and over as soon as the file holds the new one."""
    log, files, shown = tmp_path / "relay.log", Files(tmp_path), ""
    first = {name: files.change(name, 1) for name in ("postgres", "nats", "http")}
    with connected(one_dsn) as owner, rules_before(owner, ASKED):
        owner.execute(f"create role rotated login password '{first['postgres']}'".encode())
        owner.execute("grant relay_relay, relay_operator to rotated")
        with devstack.nats_server(asking(first["nats"])) as bus:
            url = bus.url.replace("//", f"//{first['nats']}@")
            streams.make(url, STREAM, "orders.>")
            with RelayProcess(
                make_conninfo(one_dsn, user="rotated", password=""),
                bus.url,
                log,
                variables=EVERYTHING_SAID,
                within=["prlimit", "--core=0"],
                postgres_password_file=str(tmp_path / "postgres"),
                nats_token_file=str(tmp_path / "nats"),
                http_token_file=str(tmp_path / "http"),
                http="127.0.0.1:0",
                max_attempts="1",
            ) as relay:
                until(lambda: port_of(log) is not None, 20)
                page = Served(port_of(log) or 0, relay)
                write(owner, LARGEST)
                write(owner)
                until(lambda: streams.held(url, STREAM) == 1, 20)
                until(lambda: alone(one_dsn, "select count(*) from relay.parked") == 1, 20)
                shown += look(page, owner)

                newer = f"{CANARY}-postgres-secret-2"
                owner.execute(f"alter role rotated password '{newer}'".encode())
                owner.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where usename = 'rotated'"
                )
                refusal = 'password authentication failed for user "rotated"'
                until(lambda: refusal in one_postgres.log_path.read_text(), 20)
                write(owner)
                shown += look(page, owner)
                assert files.change("postgres", 2) == newer
                until(lambda: streams.held(url, STREAM) == 2, 20)

                bus.stop()
                newer = f"{CANARY}-nats-secret-2"
                bus._config.write_text(asking(newer))
                bus.start()
                url = bus.url.replace("//", f"//{newer}@")
                until(lambda: "authentication error" in bus.log_path.read_text(), 20)
                write(owner)
                shown += look(page, owner)
                assert files.change("nats", 2) == newer
                until(lambda: streams.held(url, STREAM) == 3, 20)

                newer = files.change("http", 2)
                assert page.retry({"id": "1"}, token=first["http"]).status == 401
                assert page.retry({"id": "1"}, token=newer).status == 200
                shown += look(page, owner)
                relay.process.send_signal(signal.SIGABRT)
                relay.process.wait(10)
        owner.execute("drop role rotated")
    said = log.read_text()
    for each in ("Fatal Python error: Aborted", '"trace_id"', "relay.leader", "the limit is 4096"):
        assert each in said
    assert CANARY not in said
    assert "'relay " in shown, "its sessions were among what was looked at"
    assert CANARY not in shown
