"""Debian's Prometheus and its promtool, if they are here; and Prometheus as a server of a test.

RELAY_TEST_PROMETHEUS_BIN=DIR         where they are, if not on PATH
RELAY_TEST_REQUIRE_PROMETHEUS=1       a machine without them fails these tests: CI does not skip
"""

import json
import os
import shutil
import signal
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from relay.devstack.sandbox import Sandbox, free_port
from tests.system.harness import until


def tool(name: str) -> str:
    """Return the program's path; skip the test if it is not here."""
    found = shutil.which(name, path=os.environ.get("RELAY_TEST_PROMETHEUS_BIN"))
    if found is not None:
        return found
    reason = (
        f"{name} not found: install Debian's package prometheus, or name its folder in"
        " RELAY_TEST_PROMETHEUS_BIN"
    )
    if os.environ.get("RELAY_TEST_REQUIRE_PROMETHEUS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


class Prometheus:
    """A running server: ask it as Grafana does."""

    def __init__(self, url: str) -> None:
        self.url = url

    def instant(self, expr: str, at: float | None = None) -> list[dict[str, Any]]:
        """The answer's series, each with `metric` and `value`."""
        return self._result("query", {"query": expr} | ({"time": at} if at else {}))

    def over(self, expr: str, start: float, end: float, step: float = 1) -> list[dict[str, Any]]:
        """The answer's series, each with `metric` and `values`."""
        asked = {"query": expr, "start": start, "end": end, "step": step}
        return self._result("query_range", asked)

    def value(self, expr: str) -> float | None:
        """The one value of the answer, now; None if there is none."""
        result = self.instant(expr)
        assert len(result) < 2, result
        return float(result[0]["value"][1]) if result else None

    def wait(self, expr: str, value: float | None = None, seconds: float = 20) -> None:
        """Wait until the answer is `value`; without one, until it is above 0."""
        deadline = time.monotonic() + seconds
        while not _is(self.value(expr), value):
            assert time.monotonic() < deadline, f"{expr} is not {value} in {seconds} s"
            time.sleep(0.1)

    def label_values(self, label: str, series: str) -> list[str]:
        return self._get(f"label/{label}/values", {"match[]": series})["data"]

    def rules(self) -> list[dict[str, Any]]:
        """Every alert rule, with its `health` and its `lastError`."""
        groups = self._get("rules", {"type": "alert"})["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def _result(self, path: str, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
        answer = self._get(path, asked)
        assert not answer.get("warnings"), answer
        return answer["data"]["result"]

    def _get(self, path: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(asked)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            pytest.fail(f"{asked}: {error.read().decode()}")


def _is(found: float | None, value: float | None) -> bool:
    return found is not None and (found > 0 if value is None else found == value)


@contextmanager
def prometheus(config: Path) -> Iterator[Prometheus]:
    """Run a Prometheus on loopback with this configuration, in a folder that goes with it."""
    program, port = tool("prometheus"), free_port()
    with Sandbox("prometheus") as sandbox:
        command = [program, f"--config.file={config}", f"--storage.tsdb.path={sandbox.folder}/data"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        log = sandbox.folder / "prometheus.log"
        process = sandbox.spawn(command, log=log, tidy_end=signal.SIGTERM)
        server = Prometheus(f"http://127.0.0.1:{port}")
        until(lambda: server.is_ready() or process.poll() is not None, 30)
        assert process.poll() is None, log.read_text()
        yield server
