"""A collector for benchmarks, in a process of its own: ``python -m bench.collector``.

It prints its port, takes OTLP over HTTP, and counts the spans of what it took when its standard
input ends: no work is done while the relay is measured.
"""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Taking(BaseHTTPRequestHandler):
    """Keeps the traces, forgets the rest."""

    protocol_version = "HTTP/1.1"
    traces: list[bytes] = []  # noqa: RUF012 - one for all requests

    def do_POST(self) -> None:
        """Take one request."""
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/v1/traces":
            self.traces.append(body)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()
    print(
        sum(
            len(scope.spans)
            for body in Taking.traces
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
        )
    )


if __name__ == "__main__":
    main()
