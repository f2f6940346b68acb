"""OpenTelemetry's SDK for this process, set up as the OTEL_* variables ask, and let go of in time.

    exported() ──► nothing asked for       nothing is imported
              ├──► somebody was here       an application's providers, or those of
              │                            opentelemetry-instrument, stay as they are
              └──► providers of our own    flushed at the end, for ``FLUSH_WITHIN`` at most

The exporters work in daemon threads: a collector that is slow, dead or was never there costs its
points and spans, not a delivery and not the exit. A variable that can't be obeyed is an error line,
never a relay that does not deliver.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any, Final

from relay.otel.plan import Scrape, plan

log = logging.getLogger("relay.otel")

FLUSH_WITHIN: Final = 1.25
"""Seconds, for spans and metrics together. Left alone, the SDK would wait for 12 s and more."""

_PROMETHEUS: Final = "opentelemetry.exporter.prometheus"
_NOTHING: Final = ("opentelemetry.trace", "opentelemetry.metrics")


@contextmanager
def exported(*, serving: bool, environ: Mapping[str, str] = os.environ) -> Iterator[Scrape | None]:
    """Export what is measured in the block.

    Yields what /metrics answers; None where it is not to be served.

    Args:
        serving: RELAY_HTTP has an address.
        environ: where the variables are.
    """
    wanted = plan(environ, serving=serving, can_serve=_is_there(_PROMETHEUS))
    for fault in wanted.faults:
        log.error("telemetry: %s", fault)
    if not wanted or is_set_up():
        yield None
        return
    providers, scrape = list[Any](), None
    try:
        from relay.otel.providers import set_up

        providers, scrape = set_up(wanted, environ)
    except Exception as error:  # noqa: BLE001 - whatever a package of others raises
        log.error(  # noqa: TRY400 - it is the environment's fault, not a bug
            "telemetry can't be set up: delivery goes on without it",
            extra={"reason": f"{type(error).__name__}: {error}"},
        )
    try:
        yield scrape
    finally:
        _let_go(providers)


def is_set_up() -> bool:
    """Say whether this process has providers of traces or metrics. Imports nothing."""
    if "opentelemetry.trace" not in sys.modules and "opentelemetry.metrics" not in sys.modules:
        return False
    from opentelemetry import metrics, trace

    return is_real(trace.get_tracer_provider()) or is_real(metrics.get_meter_provider())


def is_real(provider: object) -> bool:
    """Say whether it is more than the API's own, which do nothing unless somebody sets others."""
    return not type(provider).__module__.startswith(_NOTHING)


def _let_go(providers: Sequence[Any]) -> None:
    """Flush and shut down, all at once, and wait no longer than ``FLUSH_WITHIN``."""

    def shut_down(provider: Any) -> None:
        with suppress(Exception):  # it has told what it could not send
            provider.shutdown()

    threads = [
        threading.Thread(target=shut_down, args=(each,), name="relay telemetry", daemon=True)
        for each in providers
        if hasattr(each, "shutdown")
    ]
    until = time.monotonic() + FLUSH_WITHIN
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


def _is_there(module: str) -> bool:
    """Say whether a package is installed, without importing it (its parents aside)."""
    try:
        return find_spec(module) is not None
    except ImportError:
        return False
