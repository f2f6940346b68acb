"""Whatever is sent to the routes: an answer of HTTP or none, never a bug, and probes answer on."""

import json
import logging
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.http.asking import TOKEN
from tests.http.site import site

PATHS = ["/", "/livez", "/readyz", "/metrics", "/retry", "/nothing", "*", "//", "/%00", "/livez/.."]
NAMES = [
    *("Host", "Authorization", "Content-Type", "Origin", "Sec-Fetch-Site", "Expect", "Upgrade"),
    *("Transfer-Encoding", "Cookie", "X-Forwarded-For", "Accept-Encoding"),
]
VALUES = [
    *("localhost", "[::1", "evil.example", ":", "application/json", f"Bearer {TOKEN}"),
    *(f"bearer  {TOKEN} ", "Bearer", "chunked", "100-continue", "websocket", "http://localhost"),
    *("same-origin", "cross-site", "x" * 2000),
]
LATIN = st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=20)
IDS = st.sampled_from(["all", 1, "17", -1, 2**64, 1.5, None, True, "9" * 5000, [], [1, "2"], {}])
BODIES = (
    st.dictionaries(st.sampled_from(["id", "ids", "x"]), IDS).map(
        lambda each: json.dumps(each).encode()
    )
    | st.binary(max_size=40)
    | st.sampled_from([b"[" * 2000, b'{"id": NaN}', b'{"ids": "all"}', b'{"id": "\\ud800"}'])
)


@st.composite
def requests(draw) -> bytes:
    """A whole request, or what looks a little like one."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200)) + b"\r\n\r\n"
    method = draw(st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT", "get", "CONNECT"]))
    path = draw(st.sampled_from(PATHS) | LATIN.map(lambda each: f"/{each.replace(' ', '')}"))
    names = st.sampled_from(NAMES)
    headers = draw(st.lists(st.tuples(names, st.sampled_from(VALUES) | LATIN), max_size=5))
    body = draw(BODIES)
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    lines += [f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


@pytest.mark.timeout(60)
def test_no_request_meets_a_bug_or_gets_past_the_token(caplog: pytest.LogCaptureFixture) -> None:
    retried: list[object] = []
    may_retry = False

    async def retry(ids: object, by: str) -> tuple[int, str]:
        assert may_retry, (ids, by)
        retried.append(ids)
        return 200, "done"

    @settings(max_examples=80)
    @given(requests())
    def ask(request: bytes) -> None:
        nonlocal may_retry
        may_retry = TOKEN.encode() in request
        with socket.create_connection(("127.0.0.1", port), timeout=10) as one:
            one.sendall(request)
            one.shutdown(socket.SHUT_WR)
            answer = b""
            try:
                while part := one.recv(65_536):
                    answer += part
            except ConnectionError:
                pass
        assert not answer or answer.startswith(b"HTTP/1.")
        assert not answer.startswith(b"HTTP/1.1 500")

    with caplog.at_level(logging.WARNING), site(retry) as port:
        ask()
        with socket.create_connection(("127.0.0.1", port), timeout=10) as one:
            one.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert one.recv(100).startswith(b"HTTP/1.1 ")
    assert [each for each in caplog.records if each.name.startswith("relay")] == []
