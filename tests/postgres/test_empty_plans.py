"""The plans that are made while all tables are empty, and stay: none walks what will be there.

A relay prepares its statements when it begins, with generic plans, and a fresh outbox has neither
rows nor statistics: what looks cheapest then is a walk along any index.
"""

import re
from typing import Any

import psycopg

from relay.postgres.reading import PLANS
from relay.postgres.sqlfiles import load

BOUNDED = {
    "park": (),
    "unpark": (),
    "repark": (),
    "keys_of": (),
    "promote": (),
    "blocked": (),
    "event": (),
    "delivered": ("repair",),
    "due": (),
    "prune": ("cursor", "settled", "replay"),
    "settle": ("cursor",),
}
"""Statements, each with those of its tables that are small, whatever waits."""


def scans(connection: psycopg.Connection, name: str) -> list[dict[str, Any]]:
    """The nodes of the statement's plan that read a table."""
    text = load(f"queries/{name}", "relay").as_string(connection)
    params = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", text)))
    for number, param in enumerate(params, 1):
        text = text.replace(f"%({param})s", f"${number}")
    connection.execute(f"prepare planned as {text}".encode())
    nulls = ", ".join("null" for _ in params)
    row = connection.execute(f"explain (format json) execute planned({nulls})".encode()).fetchone()
    connection.execute("deallocate planned")
    assert row is not None
    found, waiting = list[dict[str, Any]](), [row[0][0]["Plan"]]
    while waiting:
        node = waiting.pop()
        waiting += node.get("Plans", [])
        if "Relation Name" in node and node["Node Type"].endswith("Scan"):
            found.append(node)
    return found


def test_a_plan_that_is_made_for_empty_tables_walks_none_of_them(outbox_dsn: str) -> None:
    options = " ".join(f"-c {name}={value}" for name, value in PLANS.items())
    with psycopg.connect(outbox_dsn, options=options) as connection:
        for name, small in BOUNDED.items():
            found = scans(connection, name)
            assert found
            for node in found:
                index = node.get("Index Name", "")
                if node["Relation Name"] in small or index == "parked_due":  # the first of each
                    continue
                # Without a condition on its first column an index is walked from end to end.
                condition = node.get("Index Cond", node.get("TID Cond"))
                assert condition, (name, node)
                leads = {"outbox_xid_id": "xid", "outbox_pkey": "id"}
                assert leads.get(index, "") in condition, (name, node)
