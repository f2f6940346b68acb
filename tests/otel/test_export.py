"""Setting OpenTelemetry up for a process, and letting go of it: on, off, and somebody else's."""

import json
import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psycopg
import pytest

from relay import devstack
from relay.otel import export
from relay.otel.export import exported, is_set_up
from relay.otel.instruments import INSTRUMENTS, series
from tests.system.harness import STREAM, RelayProcess, delivered, until

INSERT = "insert into relay.outbox (subject, payload_bytes) values ('orders.placed', 'x')"


def python(script: str, **variables: str) -> str:
    """Run a script in a process of its own: providers can be set only once in each."""
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    ran = subprocess.run(
        command, env=given | variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_without_a_variable_a_relay_imports_nothing_of_opentelemetry(
    outbox_dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    imports = {"PYTHONPROFILEIMPORTTIME": "1"}
    for expected, variables in (
        (False, imports),
        (True, imports | {"OTEL_TRACES_EXPORTER": "otlp"}),
    ):
        log = tmp_path / f"{expected}.log"
        with RelayProcess(outbox_dsn, own_nats.url, log, variables=variables) as relay:
            until(lambda log=log: '"event": "leading"' in log.read_text(), 20)
            assert relay.terminate() == 0
        imported = re.findall(r"\| +(opentelemetry\.(?:sdk|trace|metrics))", log.read_text())
        assert bool(imported) is expected


def test_metrics_are_served_in_prometheus_format_without_a_collector(
    outbox_dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    wanted = {
        "relay_leader",
        "relay_backlog",
        "relay_delivery_duration_seconds_count",
        "messaging_client_sent_messages_total",
    }
    with RelayProcess(outbox_dsn, own_nats.url, log, http="127.0.0.1:0") as relay:
        with psycopg.connect(outbox_dsn) as connection:
            connection.execute(INSERT)
        url = re.compile(r'"url": "([^"]+)"')
        until(lambda: url.search(log.read_text()), 20)
        found = url.search(log.read_text())
        assert found is not None

        def scraped() -> str:
            try:
                with urllib.request.urlopen(f"{found[1]}metrics", timeout=5) as answer:
                    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
                    return str(answer.read(), "utf-8")
            except urllib.error.HTTPError as error:
                error.close()
                if error.code != 429:  # more often than anybody scrapes
                    raise
                return ""

        texts = list[str]()

        def names(text: str) -> set[str]:
            lines = (line for line in text.splitlines() if line[0] != "#")
            return {line.partition("{")[0].split()[0] for line in lines}

        # the backlog is looked at beside the delivering: either can be first
        until(lambda: names(scraped()) >= wanted, 20)
        until(lambda: texts.append(scraped()) is None and bool(texts[-1]), 20)
        text = texts[-1]
        assert relay.terminate() == 0
    known = {name for each in INSTRUMENTS for name in series(each)} | {"target_info"}
    assert names(text) <= known
    assert 'service_name="outbox-relay"' in text
    assert f'messaging_destination_name="{STREAM}"' in text


def test_the_console_shows_spans_and_metrics(
    outbox_dsn: str, own_nats: devstack.NatsServer, tmp_path: Path
) -> None:
    with psycopg.connect(outbox_dsn) as connection:
        connection.execute(INSERT)
    log = tmp_path / "log"
    variables = {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "console"}
    with RelayProcess(outbox_dsn, own_nats.url, log, variables=variables) as relay:
        until(lambda: delivered(outbox_dsn) == 1, 20)
        assert relay.terminate() == 0
    told = log.read_text()
    assert f'"name": "publish {STREAM}"' in told
    assert '"name": "relay.delivery.duration"' in told


def test_an_applications_own_providers_are_used_and_left_alone() -> None:
    told = python(
        """
        import json, anyio
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from relay import Relay, Settings
        from relay.memory import MemoryBus, MemoryOutbox
        from relay.otel.export import exported

        spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracers, meters = TracerProvider(), MeterProvider([reader])
        tracers.add_span_processor(SimpleSpanProcessor(spans))
        trace.set_tracer_provider(tracers)
        metrics.set_meter_provider(meters)
        outbox, bus = MemoryOutbox(), MemoryBus()
        outbox.emit("orders.placed", b"x")

        async def main():
            relay = Relay(Settings(), outbox=outbox, bus=bus)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(relay.run)
                while not spans.get_finished_spans():
                    await anyio.sleep(0.01)
                relay.stop()

        with exported(serving=True) as scrape:
            assert trace.get_tracer_provider() is tracers and scrape is None
            anyio.run(main)
        (resource,) = reader.get_metrics_data().resource_metrics
        print(json.dumps({
            "spans": [span.name for span in spans.get_finished_spans()],
            "metrics": [m.name for s in resource.scope_metrics for m in s.metrics],
        }))
        """,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
    )
    found = json.loads(told)
    assert found["spans"] == ["publish memory"]
    assert "messaging.client.sent.messages" in found["metrics"]


def test_nobody_set_anything_up_in_this_process() -> None:
    assert not is_set_up()


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"OTEL_CONFIG_FILE": "otel.yaml"}, "pip install opentelemetry-configuration"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "no installed package offers the exporter zipkin"),
        ({"OTEL_METRICS_EXPORTER": "otlp,statsd"}, "the exporter statsd; there are: console"),
    ],
)
def test_what_cant_be_set_up_is_a_line_and_the_work_goes_on(
    caplog: pytest.LogCaptureFixture, variables: dict[str, str], says: str
) -> None:
    with exported(serving=False, environ=variables) as scrape:
        assert scrape is None
    (line,) = caplog.records
    assert line.levelno == logging.ERROR
    assert says in line.reason


def test_prometheus_without_its_library_is_a_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_PROMETHEUS", "opentelemetry.exporter.missing")
    variables = {"OTEL_METRICS_EXPORTER": "prometheus"}
    with exported(serving=True, environ=variables) as scrape:
        assert scrape is None
    assert 'pip install "relay-outbox[prometheus]"' in caplog.text


def test_providers_that_hang_and_fail_are_shut_down_of_in_time() -> None:
    let_go = threading.Event()

    class Hangs:
        def shutdown(self) -> None:
            let_go.wait(60)

    class Fails:
        def shutdown(self) -> None:
            raise RuntimeError("the collector is away")

    began = time.monotonic()
    export._shut_down([Hangs(), Fails(), Hangs()])
    took = time.monotonic() - began
    let_go.set()
    assert export.FLUSH_WITHIN <= took < 2.0
