"""The look for known vulnerabilities: it fails for one, and never for want of a network."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from relay.devstack.sandbox import free_port
from tests.deploy import advisories
from tests.deploy.supply import pins

BAD: dict[str, Any] = {
    "id": "GHSA-0000-0000-0001",
    "summary": "a hole",
    "modified": "2026-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"name": "starlette", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}],
        }
    ],
}


class Answers(BaseHTTPRequestHandler):
    """OSV's query, answered with the vulnerability for one package."""

    bad = ""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer: dict[str, Any] = {"vulns": [BAD]} if asked["package"]["name"] == self.bad else {}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def service(bad: str) -> Iterator[list[str]]:
    """A service that knows one bad package; the arguments by which pip-audit asks it."""
    handler = type("Handler", (Answers,), {"bad": bad})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield ["-s", "osv", "--osv-url", f"http://127.0.0.1:{server.server_port}/v1/query"]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
def test_a_known_vulnerability_fails_and_is_named_unless_it_is_ignored() -> None:
    with service(bad="starlette") as where:
        code, said = advisories.ask(where)
        assert code == 1
        assert "1 known holes" in said
        assert re.search(r"starlette [\d.]+: GHSA-0000-0000-0001, mended in 99\.1", said)
        ignored = advisories.ask([*where, "--ignore-vuln", BAD["id"]])
        assert ignored == (0, f"advisories: {len(pins())} packages looked at, 0 known holes")


@pytest.mark.slow
def test_a_service_out_of_reach_is_said_and_is_exit_0() -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/v1/query"
    code, said = advisories.ask(["-s", "osv", "--osv-url", nowhere])
    assert code == 0
    assert "NOT LOOKED AT" in said


@pytest.mark.slow
def test_a_fault_of_pip_audit_s_own_is_not_taken_for_a_missing_network() -> None:
    code, said = advisories.ask(["--no-such-option"])
    assert code == 1
    assert "no-such-option" in said
