"""What people import into their monitoring; ``relay dashboards`` writes it out.

    files/grafana-dashboard.json    made by ``relay.dashboards.grafana``: change that, not this
    files/grafana-postgres.json     the same, for those who scrape nothing
    files/prometheus-alerts.yaml    alert rules, each with its runbook, as README.md has it
    files/prometheus.yaml           how to scrape the relays, or the Collector
    files/otel-collector.yaml       OTLP in; metrics out to Prometheus, traces on

The files are authoritative for what a person gets; for the names in them it is
``relay.otel.instruments``, and the tests compare the two.
"""

from importlib.resources import files
from typing import Final

DASHBOARD: Final = "grafana-dashboard.json"
SQL_DASHBOARD: Final = "grafana-postgres.json"
ALERTS: Final = "prometheus-alerts.yaml"
SCRAPING: Final = "prometheus.yaml"
COLLECTOR: Final = "otel-collector.yaml"


def shipped() -> dict[str, bytes]:
    """Return every file by its name."""
    folder = files(__name__) / "files"
    names = (DASHBOARD, SQL_DASHBOARD, ALERTS, SCRAPING, COLLECTOR)
    return {name: (folder / name).read_bytes() for name in names}
