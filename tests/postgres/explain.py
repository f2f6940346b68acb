"""What a statement touches, as EXPLAIN ANALYZE tells it of the statement as the relay runs it."""

import json
import re
from typing import Any

import psycopg

from relay.postgres.sqlfiles import load


def nodes(connection: psycopg.Connection, name: str, **params: Any) -> list[dict[str, Any]]:
    """Run the query file ``name`` under EXPLAIN ANALYZE; its plan's nodes, flat."""
    text = load(f"queries/{name}", "relay").as_string(connection)
    order = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", text)))
    for number, param in enumerate(order, 1):
        text = text.replace(f"%({param})s", f"${number}")
    connection.execute(f"prepare planned as {text}".encode())
    try:
        values = ", ".join(psycopg.sql.Literal(params[p]).as_string(connection) for p in order)
        row = connection.execute(
            f"explain (analyze, format json) execute planned({values})".encode()
        ).fetchone()
    finally:
        connection.execute("deallocate planned")
    assert row is not None
    found: list[dict[str, Any]] = []
    waiting = [row[0][0]["Plan"] if not isinstance(row[0], str) else json.loads(row[0])[0]["Plan"]]
    while waiting:
        node = waiting.pop()
        waiting.extend(node.get("Plans", []))
        found.append(node)
    return found


def touched(plan: list[dict[str, Any]], index: str | None = None, *, table: str = "outbox") -> int:
    """How many rows of ``table`` the plan's scans looked at, kept or not."""
    total = 0
    for node in plan:
        if node.get("Relation Name") == table or node.get("Index Name") == index is not None:
            assert node["Node Type"] != "Seq Scan", "the whole table is read"
            if index is not None and "Index Name" in node:
                assert node["Index Name"] == index
            looked = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            total += round(looked * node["Actual Loops"])
    return total
