"""Every sink of one relay's facts: each is told of each fact; one that raises is left out.

A sink is a spectator: logs, figures, an application's observer. What it raises is a bug of its own
and must not reach delivery. It is logged once, with its traceback, and that sink is told no more.
"""

import logging
from collections.abc import Iterable

from relay.facts import Fact, FactSink

log = logging.getLogger("relay.otel")


class FactSinks:
    """Hands facts on. Not for two threads at once."""

    def __init__(self, sinks: Iterable[FactSink] = ()) -> None:
        """FactSink ``sinks``, in this order."""
        self._sinks: tuple[FactSink, ...] = tuple(sinks)

    def add(self, sink: FactSink) -> None:
        """FactSink ``sink`` as well, from the next fact on."""
        self._sinks += (sink,)

    def record(self, fact: Fact) -> None:
        """FactSink every sink. Raises nothing that a sink raises, but for what ends the process."""
        for sink in self._sinks:
            try:
                sink(fact)
            except Exception:
                self._sinks = tuple(each for each in self._sinks if each is not sink)
                log.exception(
                    "a sink of facts failed and is left out: delivery goes on without it",
                    extra={"sink": _name(sink), "fact": type(fact).__name__},
                )


def _name(sink: FactSink) -> str:
    return getattr(sink, "__qualname__", type(sink).__qualname__)
