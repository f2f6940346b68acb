"""Who may do what: the one table that the tests of the roles are held to."""

ROLES = ("owner", "producer", "relay", "operator", "monitor", "stranger")

TABLES = (
    "outbox",
    "cursor",
    "settled",
    "report",
    "stream",
    "parked",
    "checkpoint",
    "repair",
    "unparked",
    "decision",
    "migration",
    "replay",
    "fence",
    "pending",
    "status",
)
VERBS = ("select", "insert", "update", "delete", "truncate", "references", "trigger")

# Who may, beside the owner, who may everything. A right on some columns only is not listed here.
TABLE_RIGHTS = {
    ("outbox", "select"): "relay operator",
    ("outbox", "delete"): "relay",
    ("cursor", "select"): "relay operator",
    ("cursor", "update"): "relay",
    ("settled", "select"): "relay operator",
    ("settled", "insert"): "relay",
    ("settled", "update"): "relay",
    ("settled", "delete"): "relay",
    ("report", "select"): "relay operator",
    ("report", "update"): "relay",
    ("stream", "select"): "relay operator",
    ("stream", "insert"): "relay",
    ("stream", "update"): "relay",
    ("stream", "delete"): "relay",
    ("parked", "select"): "relay operator",
    ("parked", "insert"): "relay",
    ("parked", "update"): "relay",
    ("parked", "delete"): "relay",
    **{
        (table, verb): "relay operator" if verb == "select" else "relay"
        for table in ("checkpoint", "repair", "unparked")
        for verb in ("select", "insert", "update", "delete")
    },
    ("decision", "select"): "operator",
    ("fence", "select"): "relay operator",
    ("migration", "select"): "relay operator",
    ("replay", "select"): "relay operator",
    ("pending", "select"): "relay operator monitor",
    ("status", "select"): "relay operator monitor",
}

COLUMN_VERBS = ("select", "insert", "update", "references")
OUTBOX_COLUMNS = (
    "id",
    "xid",
    "created_at",
    "event_id",
    "idempotency_key",
    "subject",
    "key",
    "payload",
    "payload_bytes",
    "headers",
    "ttl",
)
COLUMN_RIGHTS = {
    **{(column, "select"): "relay operator" for column in OUTBOX_COLUMNS},
    ("id", "select"): "producer relay operator",
    ("event_id", "select"): "producer relay operator",
    **{(column, "insert"): "producer operator" for column in OUTBOX_COLUMNS[4:]},
    ("xid", "update"): "relay",
    ("event_id", "update"): "relay",
}

FUNCTIONS = {
    "emit(text, json, text, jsonb, text, interval)": "producer operator",
    "emit(text, jsonb, text, jsonb, text, interval)": "producer operator",
    "emit(text, text, text, jsonb, text, interval)": "producer operator",
    "emit_bytes(text, bytea, text, jsonb, text, interval)": "producer operator",
    "retry_dead(uuid[], timestamptz, text, double precision)": "operator",
    "drop_dead(uuid[], timestamptz, text)": "operator",
    "begin_replay(bigint, jsonb, boolean, bigint, bigint, bigint, text)": "operator",
    "mark_replay(bigint, bigint[], bigint, boolean, boolean)": "operator",
    **dict.fromkeys(
        (
            "publishable(oid, timestamptz, text, text, text, json, bytea, jsonb, interval)",
            "message_id(text, text, uuid, integer, bigint)",
            "message_headers(jsonb, interval, bigint)",
            # triggers call these two, and nobody else can
            "notify()",
            "refuse_truncate()",
        ),
        "producer relay operator monitor stranger",
    ),
}

SCHEMA_RIGHTS = {"usage": "producer relay operator monitor", "create": ""}

SEQUENCE_VERBS = ("usage", "select", "update")


def expected(role: str, others: str) -> bool:
    return role == "owner" or role in others.split()
