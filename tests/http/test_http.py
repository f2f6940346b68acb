"""The real relay asked over HTTP: probes, the page, the stream of snapshots, retries, refusals."""

import asyncio
import http.client
import json
import re
import socket
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from starlette.responses import Response

from relay import devstack
from tests.http.asking import (
    TOKEN,
    Served,
    asked_for,
    emit,
    has_ended,
    park,
    serving,
    settled,
)
from tests.system.harness import RelayProcess, connected, until

pytestmark = pytest.mark.timeout(120)


def leads(shown: Served) -> bool:
    return shown.is_role("leader") and shown.reason("nats") == "connected"


def first(shown: Served, fact: str, wanted: Any = True) -> dict[str, Any]:
    """Return the first snapshot of which the expression ``fact`` over it is as wanted."""
    deadline = time.monotonic() + 20
    with shown.watching() as snapshots:
        for state in snapshots:
            if eval(fact, {"state": state}) == wanted:
                return state
            assert time.monotonic() < deadline, (fact, state)
    raise AssertionError("the stream ended")


def test_the_probes_of_a_leader_say_that_it_is_well_and_why(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    with serving(dsn, own_nats.url, tmp_path / "relay.log") as shown:
        until(lambda: leads(shown), 20)
        assert shown.ready == (
            200,
            {
                "ready": True,
                "role": "leader",
                "checks": {
                    "postgres": {"ok": True, "reason": "answers"},
                    "schema": {"ok": True, "reason": "as required"},
                    "lease": {"ok": True, "reason": "leading, epoch 1"},
                    "nats": {"ok": True, "reason": "connected"},
                    "lag": {"ok": True, "reason": "within its limit"},
                },
            },
        )
        alive = shown.ask("/livez")
        assert (alive.status, alive.json["alive"]) == (200, True)
        assert alive.json["last_turn_seconds_ago"] < 5
        assert shown.relay.terminate() == 0


def test_a_standby_is_ready_shows_the_page_and_knows_the_leader(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    with RelayProcess(dsn, own_nats.url, tmp_path / "leader.log") as leader, ExitStack() as stack:
        until(lambda: '"leading"' in leader.log.read_text(), 20)
        shown = stack.enter_context(serving(dsn, own_nats.url, tmp_path / "standby.log"))
        until(lambda: shown.is_role("standby"), 20)
        assert shown.ready[0] == 200
        emit(dsn, count=3)
        state = first(shown, "state['relays']['leader'] is not None")
        assert (state["headline"], state["level"]) == ("Standing by", "healthy")
        assert f":{leader.process.pid}:" in state["relays"]["leader"]
        assert [each["address"] for each in state["relays"]["standbys"]] == ["127.0.0.1"]
        assert state["relays"]["epoch"] == 1
        assert state["figures"]["dead"] == 0
        assert leader.terminate() == 0
        until(lambda: leads(shown), 20)


def test_the_snapshots_tell_of_events_streams_and_the_path(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    with serving(dsn, own_nats.url, tmp_path / "relay.log") as shown:
        until(lambda: leads(shown), 20)
        emit(dsn, count=40)
        state = first(shown, "state['figures']['delivered']", 40)
        assert state["streams"] == [{"name": "EVENTS", "path": "fast ingest", "trouble": None}]
        assert state["relays"]["leads"] is True
        assert state["can_retry"] is False
        first(shown, "(state['relays']['standbys'], state['figures']['waiting'])", ([], 0))
        connection = http.client.HTTPConnection("127.0.0.1", shown.port, timeout=10)
        connection.request("GET", "/events")
        told = connection.getresponse()
        lines = [told.readline().decode() for _ in range(8)]
        connection.close()
        history = json.loads(lines[3].removeprefix("data: "))["history"]
        counted = sum((now[0] - last[0]) * now[1] for last, now in pairwise(history))
        assert counted == pytest.approx(40, abs=1)
        assert max(point[4] or 0 for point in history) > 0


def test_every_answer_forbids_what_a_page_does_not_need(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    with serving(dsn, own_nats.url, tmp_path / "relay.log") as shown:
        for path in ("/", "/livez", "/readyz", "/metrics", "/nothing", "/retry"):
            answer = shown.ask(path)
            assert "default-src 'none'" in answer.headers["content-security-policy"], path
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert "access-control-allow-origin" not in answer.headers
            assert "server" not in answer.headers
        codes = {
            (method, path): shown.ask(path, method=method).status
            for method in ("POST", "PUT", "DELETE", "OPTIONS")
            for path in ("/", "/events", "/readyz")
        }
        assert set(codes.values()) == {405}
        assert shown.ask("/retry").status == 405
        assert shown.ask("/events", method="HEAD").status == 200


def test_metrics_are_served_where_their_library_is_installed(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    pytest.importorskip("opentelemetry.exporter.prometheus")
    with serving(dsn, own_nats.url, tmp_path / "relay.log") as shown:
        until(lambda: leads(shown), 20)
        emit(dsn, count=7)
        until(lambda: settled(dsn, 7), 20)
        answer = shown.ask("/metrics", headers={"Host": "prometheus.example:9090"})
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "relay_" in answer.text


def test_metrics_that_are_off_are_answered_with_the_remedy() -> None:
    from relay.http.routes import Routes

    async def ask() -> Response:
        routes = Routes(health=None, token=None, retry=None, scrape=None)  # type: ignore[arg-type]
        return await routes.metrics(None)  # type: ignore[arg-type]

    answer = asyncio.run(ask())
    assert answer.status_code == 404
    assert b'pip install "relay-outbox[prometheus]"' in answer.body


def test_a_stranger_s_name_gets_no_page_but_the_probes_answer(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    with serving(dsn, own_nats.url, tmp_path / "relay.log", http_token=TOKEN) as shown:
        evil = {"Host": f"evil.example:{shown.port}"}
        for path in ("/", "/events"):
            answer = shown.ask(path, headers=evil)
            assert answer.status == 421
            assert "Host header" in answer.text
        assert shown.ask("/retry", method="POST", headers=evil).status == 421
        for path in ("/livez", "/readyz"):
            assert shown.ask(path, headers=evil).status in (200, 503)
        assert shown.ask("/", headers={"Host": f"localhost:{shown.port}"}).status == 200


def test_a_dead_event_is_retried_with_the_token_and_the_audit_knows(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    park(dsn, 5, 7)
    with serving(dsn, own_nats.url, tmp_path / "relay.log", http_token=TOKEN) as shown:
        state = first(shown, "len(state['parked']['dead'])", 2)
        dead = state["parked"]["dead"][0]
        assert (dead["id"], dead["subject"], dead["error"]) == ("5", "orders.placed", "no")
        assert (dead["key"], dead["attempts"], dead["code"]) == ("k", 10, 10054)
        answer = shown.retry({"id": "5"})
        assert (answer.status, answer.json) == (200, {"says": "event 5 is tried again"})
        until(lambda: asked_for(dsn, "select id from relay.parked") == [(7,)], 20)
        [(by, action)] = asked_for(dsn, "select decided_by, action from relay.decision")
        assert action == "retry"
        assert by.endswith("(status page, from 127.0.0.1)")
        state = first(shown, "state['parked']['total_dead']", 1)
        assert [each["id"] for each in state["parked"]["dead"]] == ["7"]


def test_a_retry_is_refused_unless_everything_is_right(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    park(dsn, 5)
    park(dsn, 6, dead=False, subject="nobody.listens", key="other")
    settings = {"http_token": TOKEN, "max_attempts": "1000"}
    with serving(dsn, own_nats.url, tmp_path / "relay.log", **settings) as shown:
        right = {"id": "5"}
        assert shown.retry(right, token=None).status == 401
        assert shown.retry(right, token=None).headers["www-authenticate"] == "Bearer"
        assert shown.retry(right, token="wrong").status == 401
        assert shown.ask(f"/retry?token={TOKEN}", method="POST").status == 401
        assert shown.retry(right, Content_Type="text/plain").status == 415
        assert shown.retry(right, Content_Type="application/x-www-form-urlencoded").status == 415
        assert shown.retry(right, Origin="http://evil.example").status == 403
        assert shown.retry(right, Origin="null").status == 403
        assert shown.retry(right, Sec_Fetch_Site="cross-site").status == 403
        assert shown.retry(right, Sec_Fetch_Site="same-site").status == 403
        for body in ("", "[]", "5", '{"id": null}', '{"id": "-5"}', '{"id": "5;"}', '{"id": 5.5}'):
            assert shown.retry(body).status == 400, body
        assert shown.retry({"id": "9" * 19}).status == 400
        assert shown.retry("x" * 2000).status == 413
        assert shown.retry({"id": 99}).status == 404
        assert shown.retry({"id": 99}).json == {"says": "event 99 is not parked any more"}
        assert shown.retry({"id": 6}).json == {"says": "event 6 is not dead but retrying"}
        assert asked_for(dsn, "select count(*) from relay.decision") == [(0,)]
        same = f"http://127.0.0.1:{shown.port}"
        assert shown.retry(right, Origin=same, Sec_Fetch_Site="same-origin").status == 200
        assert shown.retry(right).status in (404, 409)


def test_wrong_tokens_are_limited_and_no_token_means_read_only(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    park(dsn, 5)
    with serving(dsn, own_nats.url, tmp_path / "first.log", http_token=TOKEN) as shown:
        told = [shown.retry({"id": "5"}, token="wrong-token").status for _ in range(11)]
        assert told == [401] * 10 + [429]
        assert int(shown.retry({"id": "5"}, token="wrong").headers["retry-after"]) == 10
        assert asked_for(dsn, "select count(*) from relay.decision") == [(0,)]
        assert shown.retry({"id": "5"}).status == 200, "the right one is let in all the same"
    with serving(dsn, own_nats.url, tmp_path / "second.log") as shown:
        answer = shown.retry({"id": "5"}, token="wrong-token")
        assert answer.status == 403
        assert "RELAY_HTTP_TOKEN" in answer.json["says"]
    assert asked_for(dsn, "select count(*) from relay.decision") == [(1,)]


def test_a_login_that_may_not_decide_is_told_what_it_lacks(
    server: devstack.Postgres, dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    park(dsn, 5)
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    with connected(dsn) as owner:
        owner.execute(f"create role only_relay_{name} login in role relay_relay")
    limited = server.dsn_of(str(name)).replace("user=postgres", f"user=only_relay_{name}")
    with serving(limited, own_nats.url, tmp_path / "relay.log", http_token=TOKEN) as shown:
        until(lambda: leads(shown), 20)
        assert first(shown, "state['parked']['total_dead']", 1)["parked"]["dead"][0]["id"] == "5"
        answer = shown.retry({"id": 5})
        assert answer.status == 403
        assert "operator" in answer.json["says"]
        with connected(dsn) as owner:
            owner.execute(f"grant relay_operator to only_relay_{name}")
        assert shown.retry({"id": 5}).status == 200


@pytest.mark.slow
def test_no_answer_holds_a_secret_the_configuration_or_a_payload(
    server: devstack.Postgres, dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    canary = "c4n4ry-in-the-mine"
    park(dsn, 5, 6)
    park(dsn, 7, dead=False, subject="nobody.listens")
    login = f"login_{canary.replace('-', '_')}"
    with connected(dsn) as owner:
        owner.execute(f"create role {login} superuser login password '{canary}-dsn'")
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    secret = server.dsn_of(str(name)).replace("user=postgres", f"user={login}")
    settings = {"http_token": f"{canary}-http", "nats_token": f"{canary}-nats"}
    log = tmp_path / "relay.log"
    said: list[str] = []

    def look(shown: Served) -> None:
        for path in ("/", "/livez", "/readyz", "/metrics", "/nothing"):
            answer = shown.ask(path)
            said.append(f"{answer.headers} {answer.text}")
        for token in ("wrong", f"{canary}-http"):
            answer = shown.retry({"id": 99}, token=token)
            said.append(f"{answer.headers} {answer.text}")
        with shown.watching() as snapshots:
            for _, state in zip(range(5), snapshots, strict=False):
                said.append(json.dumps(state))

    with serving(f"{secret} password={canary}-dsn", own_nats.url, log, **settings) as shown:
        until(lambda: leads(shown), 20)
        look(shown)
        own_nats.stop()
        until(lambda: "away" in shown.reason("nats"), 20)
        look(shown)
        with shown.watching() as snapshots, connected(dsn) as owner:
            said.append(json.dumps(next(snapshots)))
            owner.execute(f"alter role {login} nologin")
            owner.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s",
                [login],
            )
            while "it refuses the login" not in said[-1]:  # the cut comes before
                said.append(json.dumps(next(snapshots)))
        until(lambda: "away" in shown.reason("postgres"), 20)
        look(shown)
    everything = "\n".join(said)
    assert "the connection was cut" in everything
    assert "connection refused" in everything
    for secret in ("c4n4ry", str(name), login):
        assert secret not in everything
    port = server.dsn.split("port=")[1].split()[0]
    assert not re.search(rf"(?<![\d.]){port}(?!\d)", everything)
    assert own_nats.url.removeprefix("nats://") not in everything
    assert "c4n4ry" not in log.read_text().replace(login, "")


@pytest.mark.slow
def test_who_takes_nothing_and_who_opens_many_connections_does_not_hurt(
    dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    with serving(dsn, own_nats.url, tmp_path / "relay.log") as shown:
        until(lambda: leads(shown), 20)
        watchers = [socket.create_connection(("127.0.0.1", shown.port)) for _ in range(16)]
        for each in watchers:
            each.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert each.recv(12) == b"HTTP/1.1 200"
        with shown.watching() as newcomer:
            next(newcomer)
            until(lambda: sum(has_ended(each) for each in watchers) == 1, 10)
        idle = [socket.create_connection(("127.0.0.1", shown.port)) for _ in range(120)]
        until(lambda: 120 > sum(map(has_ended, idle)) >= 120 - (100 - 15), 10)
        emit(dsn, count=100)
        until(lambda: settled(dsn, 100), 20)
        for each in watchers + idle:
            each.close()
        until(lambda: shown.ask("/livez").status == 200, 20)
        assert first(shown, "state['figures']['delivered']", 100)
        began = time.monotonic()
        with shown.watching() as snapshots:
            next(snapshots)
            assert shown.relay.terminate() == 0
        assert time.monotonic() - began < 5
