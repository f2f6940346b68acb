"""An OTLP collector in the test's own process: real gRPC and real HTTP on ephemeral ports.

It keeps what it is sent, and can refuse the first requests, as a collector does that just starts.
"""

import gzip
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_rpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_rpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Sink:
    """What has come so far."""

    def __init__(self, refuse: int = 0) -> None:
        self.grpc_url = self.http_url = ""
        self.resources: list[dict[str, object]] = []
        self.spans: list[Span] = []
        self.metrics: dict[str, Metric] = {}
        """The newest of each name; cumulative ones hold all before."""
        self.points: dict[str, list] = {}
        """Every data point of a name that ever came."""
        self.bodies = 0
        self._refusals = itertools.repeat(True, refuse)
        self._lock = threading.Lock()

    def refuses(self) -> bool:
        with self._lock:
            return next(self._refusals, False)

    def take_traces(self, request) -> None:
        with self._lock:
            self.bodies += 1
            for resource in request.resource_spans:
                self.resources.append(attributes(resource.resource.attributes))
                for scope in resource.scope_spans:
                    self.spans.extend(scope.spans)

    def take_metrics(self, request) -> None:
        with self._lock:
            self.bodies += 1
            for resource in request.resource_metrics:
                self.resources.append(attributes(resource.resource.attributes))
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        self.metrics[metric.name] = metric
                        data = getattr(metric, metric.WhichOneof("data"))
                        self.points.setdefault(metric.name, []).extend(data.data_points)

    def named(self, name: str) -> list[Span]:
        """Return the spans whose name begins so."""
        return [span for span in list(self.spans) if span.name.startswith(name)]


def attributes(pairs: list[KeyValue]) -> dict[str, object]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> object:
    return getattr(value, value.WhichOneof("value"))


@contextmanager
def sink(refuse: int = 0) -> Iterator[Sink]:
    """Listen on loopback, by both protocols."""
    taken = Sink(refuse)
    server = grpc.server(ThreadPoolExecutor(4))
    trace_rpc.add_TraceServiceServicer_to_server(_Traces(taken), server)
    metrics_rpc.add_MetricsServiceServicer_to_server(_Metrics(taken), server)
    taken.grpc_url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    web = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Web,), {"taken": taken}))
    taken.http_url = f"http://127.0.0.1:{web.server_port}"
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield taken
    finally:
        web.shutdown()
        thread.join()
        web.server_close()
        server.stop(0).wait()


class _Traces(trace_rpc.TraceServiceServicer):
    def __init__(self, taken: Sink) -> None:
        self.taken = taken

    def Export(self, request, context):  # noqa: N802 - gRPC's name
        if self.taken.refuses():
            context.abort(grpc.StatusCode.UNAVAILABLE, "just starting")
        self.taken.take_traces(request)
        return trace_pb.ExportTraceServiceResponse()


class _Metrics(metrics_rpc.MetricsServiceServicer):
    def __init__(self, taken: Sink) -> None:
        self.taken = taken

    def Export(self, request, context):  # noqa: N802 - gRPC's name
        if self.taken.refuses():
            context.abort(grpc.StatusCode.UNAVAILABLE, "just starting")
        self.taken.take_metrics(request)
        return metrics_pb.ExportMetricsServiceResponse()


class _Web(BaseHTTPRequestHandler):
    taken: Sink
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.taken.refuses():
            self._answer(503, b"")
        elif self.path == "/v1/traces":
            self.taken.take_traces(trace_pb.ExportTraceServiceRequest.FromString(body))
            self._answer(200, trace_pb.ExportTraceServiceResponse().SerializeToString())
        elif self.path == "/v1/metrics":
            self.taken.take_metrics(metrics_pb.ExportMetricsServiceRequest.FromString(body))
            self._answer(200, metrics_pb.ExportMetricsServiceResponse().SerializeToString())
        else:
            self._answer(404, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
