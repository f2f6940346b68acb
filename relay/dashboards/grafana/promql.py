"""Expressions in Prometheus' language, made from the instruments.

Whatever is asked of the leader alone is asked as ``max``: a standby has no such series, and where
two relays have it for a moment, the worse one counts.
"""

from typing import Final

from relay.otel.instruments import Instrument, series

RELAYS: Final = 'job=~"$job", instance=~"$instance"'
"""Those that the dashboard's variables name."""

OVER: Final = "$__rate_interval"
WENT_WELL: Final = 'error_type=""'
FAILED: Final = 'error_type!=""'


def gauge(instrument: Instrument) -> str:
    """Select a gauge's series."""
    (name,) = series(instrument)
    return f"{name}{{{RELAYS}}}"


def highest(instrument: Instrument, *by: str) -> str:
    """Return the highest value of a gauge, by labels."""
    return f"max{_by(*by)}({gauge(instrument)})"


def per_second(instrument: Instrument, *by: str, where: tuple[str, ...] = ()) -> str:
    """Return how often something happens, by labels: of a counter, or of a histogram's points."""
    name = series(instrument)[-1]
    return f"sum{_by(*by)}(rate({name}{{{', '.join((RELAYS, *where))}}}[{OVER}]))"


def quantile(which: float, instrument: Instrument, *by: str) -> str:
    """Return a quantile of a histogram, by labels."""
    bucket = series(instrument)[0]
    return f"histogram_quantile({which}, sum{_by('le', *by)}(rate({bucket}{{{RELAYS}}}[{OVER}])))"


def cells(instrument: Instrument) -> str:
    """Return a histogram's buckets, for a heat map."""
    bucket = series(instrument)[0]
    return f"sum by (le) (increase({bucket}{{{RELAYS}}}[{OVER}]))"


def _by(*labels: str) -> str:
    return f" by ({', '.join(labels)}) " if labels else " "
