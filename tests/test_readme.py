"""What the README shows is what the code does."""

import re
from pathlib import Path

import psycopg
import yaml

from relay.otel.instruments import INSTRUMENTS
from relay.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_settings_table_is_the_model_s_own() -> None:
    rows = re.findall(
        r"^\| `(RELAY_\w+)` \| `(--[\w-]+)` \| (.*?) \| (.*?) \|$", README, re.MULTILINE
    )
    expected = [
        (variable, flag, f"`{default}`" if default else "", description)
        for variable, flag, default, description in Settings.table()
    ]
    assert rows == expected


def test_the_metrics_table_is_the_instruments_own() -> None:
    rows = re.findall(
        r"^\| `([a-z._]+)` \| (counter|gauge|histogram) \| `(.+?)` \| (.*?) \| (.*?) \|$",
        README,
        re.MULTILINE,
    )
    assert rows == [
        (each.name, each.kind, each.unit, " ".join(f"`{a}`" for a in each.attributes), each.help)
        for each in INSTRUMENTS
    ]


def test_the_alerts_table_names_every_alert_with_its_severity() -> None:
    rules = yaml.safe_load((ROOT / "relay/dashboards/files/prometheus-alerts.yaml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    text = (ROOT / "relay/dashboards/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`(Relay\w+)`\]\(#\w+\) \| (\w+) \|", text, re.MULTILINE)
    assert sorted(rows) == sorted((r["alert"], r["labels"]["severity"]) for r in alerts)


def test_the_examples_of_emitting_run_as_they_stand(outbox_dsn: str) -> None:
    (sql,) = re.findall(r"```sql\n(.*?)```", README, re.DOTALL)
    with psycopg.connect(outbox_dsn) as connection:
        connection.execute(sql.encode())
        written = connection.execute(
            "select subject, key, idempotency_key, payload is null from relay.outbox order by id"
        ).fetchall()
    assert written == [
        ("orders.placed", "order-7", "order-7-placed", False),
        ("orders.placed", "order-7", None, True),
        ("orders.paid", "order-7", None, False),
    ]
