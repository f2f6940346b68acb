"""One relay's telemetry: what is put around its adapters, and the sink of its facts.

Made only where this process has providers of OpenTelemetry, whoever set them: ``export``, the
application that the relay is a part of, or opentelemetry-instrument.
"""

from collections.abc import Awaitable, Callable

import anyio
from opentelemetry import metrics, trace

from relay import __version__
from relay.facts import Fact, FactSink
from relay.otel.export import is_real
from relay.otel.looks import Look, both_sides, keep_looking
from relay.otel.metrics import MetricsSink
from relay.otel.timing import ObservedBus, ObservedOutbox
from relay.otel.tracing import Traces
from relay.ports import EventBus, Outbox

_SCOPE = "relay"
_SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
"""Of the conventions whose names are used."""


class Telemetry:
    """Measures one relay for the length of ``run``."""

    def __init__(self, record: FactSink) -> None:
        """Have every fact told to ``record``, which has to hand them to ``self.record``."""
        self._record = record
        meter = metrics.get_meter(_SCOPE, __version__, schema_url=_SCHEMA)
        self._figures = MetricsSink(meter)
        self._looks: list[Look] = []
        tracer = trace.get_tracer(_SCOPE, __version__, schema_url=_SCHEMA)
        self._traces = Traces(tracer) if is_real(trace.get_tracer_provider()) else None

    def record(self, fact: Fact) -> None:
        """Take note of one fact."""
        self._figures.record(fact)

    def around(self, outbox: Outbox, bus: EventBus) -> tuple[Outbox, EventBus]:
        """Return both with a stopwatch around them; ``run`` looks at their sizes."""
        self._looks = both_sides(outbox, bus)
        return ObservedOutbox(outbox, self._record), ObservedBus(bus, self._record, self._traces)

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Measure while ``work`` runs; what it raises is raised. Call ``around`` before."""
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(keep_looking, self._looks, self._leading, self._record)
                try:
                    await work()
                except Exception as error:  # noqa: BLE001 - raised below, as it is and alone
                    failure = error
                tasks.cancel_scope.cancel()
        finally:
            self._figures.close()
        if failure is not None:
            raise failure

    def _leading(self) -> bool:
        return self._figures.leading
