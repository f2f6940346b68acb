"""Events that can't be published, each with the rule it breaks, and some that can."""

import json
from datetime import timedelta
from typing import Any

MIB = 1024 * 1024
GOOD: dict[str, Any] = {"subject": "orders.placed", "payload": '{"id": 1}'}

HAS_SPACE = "outbox_subject_has_no_space_or_control_character"
RESERVED = "outbox_subject_does_not_begin_with_dollar_or_inbox"
EMPTY_TOKEN = "outbox_subject_has_no_empty_token"
WILDCARD = "outbox_subject_has_no_wildcard"

SUBJECTS = {
    "*": WILDCARD,
    ">": WILDCARD,
    "orders.*.placed": WILDCARD,
    "orders.>": WILDCARD,
    "orders.a*b": WILDCARD,
    "": EMPTY_TOKEN,
    ".": EMPTY_TOKEN,
    ".orders": EMPTY_TOKEN,
    "orders.": EMPTY_TOKEN,
    "orders..placed": EMPTY_TOKEN,
    "orders placed": HAS_SPACE,
    " orders": HAS_SPACE,
    "orders ": HAS_SPACE,
    "orders\tplaced": HAS_SPACE,
    "orders\r\nPUB x 0": HAS_SPACE,
    "orders\n": HAS_SPACE,
    "orders\x01": HAS_SPACE,
    "orders\x1f": HAS_SPACE,
    "orders\x7f": HAS_SPACE,
    "orders\x85": HAS_SPACE,
    "orders\xa0placed": HAS_SPACE,
    "orders\u2003placed": HAS_SPACE,
    "orders\u200bplaced": HAS_SPACE,
    "orders\u2028placed": HAS_SPACE,
    "orders\u3000placed": HAS_SPACE,
    "\ufefforders": HAS_SPACE,
    "$JS.API.STREAM.DELETE.x": RESERVED,
    "$SYS.x": RESERVED,
    "$": RESERVED,
    "_INBOX.abc": RESERVED,
    "_INBOX": RESERVED,
    "_INBOX_relay.abc": RESERVED,
    "s" * 256: "outbox_subject_is_at_most_255_bytes",
    "ü" * 128: "outbox_subject_is_at_most_255_bytes",
}

LENGTH = "{}_is_1_to_255_bytes"
CONTROL = "{}_has_no_control_character_or_outer_space"

KEYS = {
    "": LENGTH,
    "k" * 256: LENGTH,
    "ü" * 128: LENGTH,
    "a\r\nNats-Msg-Id: b": CONTROL,
    "a\nb": CONTROL,
    "a\tb": CONTROL,
    "a\x01": CONTROL,
    "a\x7fb": CONTROL,
    "a\x85b": CONTROL,
    "a\u2028b": CONTROL,
    " a": CONTROL,
    "a ": CONTROL,
    " ": CONTROL,
    "\xa0a": CONTROL,
    "a\u3000": CONTROL,
}

NAMES = "outbox_header_names_are_tokens"
NATS = "outbox_header_names_do_not_begin_with_nats_or_relay"
STRINGS = "outbox_header_values_are_strings"
VALUES = "outbox_header_values_have_no_control_character"
OBJECT = "outbox_headers_are_an_object"
BIG = "outbox_headers_are_at_most_32_kib"

HEADERS: list[tuple[object, str]] = [
    (["a"], OBJECT),
    ("a", OBJECT),
    (1, OBJECT),
    (None, OBJECT),  # JSON's null, not SQL's
    ([{"a": 1}], OBJECT),
    ({"a": 1}, STRINGS),
    ({"a": None}, STRINGS),
    ({"a": True}, STRINGS),
    ({"a": ["b"]}, STRINGS),
    ({"a": {"b": "c"}}, STRINGS),
    ({"a": "b", "c": []}, STRINGS),
    ({"": "b"}, NAMES),
    ({"a b": "c"}, NAMES),
    ({"a:": "c"}, NAMES),
    ({"a\r\nb": "c"}, NAMES),
    ({"a\n": "c"}, NAMES),
    ({"ä": "c"}, NAMES),
    ({"ok": "b", "(no)": "c"}, NAMES),
    ({"Nats-Msg-Id": "b"}, NATS),
    ({"nats-rollup": "all"}, NATS),
    ({"NATS-Expected-Last-Sequence": "1"}, NATS),
    ({"Relay-Key": "b"}, NATS),
    ({"ok": "b", "relay-x": "c"}, NATS),
    ({"a": "b\r\nNats-Msg-Id: c"}, VALUES),
    ({"a": "b\n"}, VALUES),
    ({"a": "\x01"}, VALUES),
    ({"a": "b\x7f"}, VALUES),
    ({"a": "b\x85"}, VALUES),
    ({"a": "b\u2028"}, VALUES),
    ({"a": "x" * 32768}, BIG),
    ({f"h{n}": "x" * 100 for n in range(400)}, BIG),
]

ONE_OF = "outbox_one_of_payload_and_payload_bytes_is_given"

RELAYS = "outbox_idempotency_key_does_not_begin_with_relay"
YEARS = "outbox_created_at_is_of_2000_to_2200"
TTL = "outbox_ttl_is_whole_seconds_up_to_100_years"

POISON: list[tuple[dict[str, Any], str]] = [
    *(({"subject": subject}, name) for subject, name in SUBJECTS.items()),
    *(
        ({column: value}, name.format(f"outbox_{column}"))
        for column in ("key", "idempotency_key")
        for value, name in KEYS.items()
    ),
    # R-ONCE: a key never meets a message id that the relay makes
    ({"idempotency_key": "relay-0190c8f0-0000-7000-8000-000000000000"}, RELAYS),
    ({"idempotency_key": "relay-"}, RELAYS),
    ({"idempotency_key": "relay-7 and more"}, RELAYS),
    *(({"headers": json.dumps(headers)}, name) for headers, name in HEADERS),
    ({"payload": None}, ONE_OF),
    ({"payload": json.dumps("x" * (MIB - 1))}, "outbox_payload_is_at_most_1_mib"),
    (
        {"payload": None, "payload_bytes": b"x" * (MIB + 1)},
        "outbox_payload_bytes_are_at_most_1_mib",
    ),
    *(({"ttl": timedelta(seconds=s)}, TTL) for s in (0, -1, 0.999, 1.5, 3155760001)),
]

# Only an owner can give it; psycopg could not read these.
CREATED_AT = ["infinity", "-infinity", "10000-01-01", "0044-03-15 BC", "1999-12-31", "2200-01-02"]

HARMLESS: list[dict[str, Any]] = [
    {},
    {"ttl": timedelta(seconds=1)},
    {"ttl": timedelta(seconds=3155760000), "key": "k", "idempotency_key": "ttl"},
    {"subject": "a"},
    {"subject": "Bestellungen.größe.日本.😀"},
    {"subject": "orders.$x._INBOX.a-b_c"},
    {"subject": "s" * 255},
    {"key": "customer 17 / ü"},
    {"key": "k" * 255, "idempotency_key": "i" * 255},
    {"key": "."},
    {"idempotency_key": "order-17:placed"},
    {"idempotency_key": "Relay-17"},
    {"idempotency_key": "my-relay-17"},
    {"headers": json.dumps({"name": "a", "Retry-After": "1"})},
    {"headers": json.dumps({"a": 'b "c" \\ d', "e": "ü"})},
    {"payload": json.dumps(["x" * 5000])},
    {"headers": "{}"},
    {"headers": json.dumps({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169-01"})},
    {"headers": json.dumps({"a": "", "b!#$%&'*+-.^_`|~9": " grüße; x=y ", "natsy": "x"})},
    {"headers": json.dumps({"a": "x" * 32759})},  # 32768 bytes with its braces and quotes
    {"payload": json.dumps("x" * (MIB - 2))},
    {"payload": "null"},
    {"payload": ' { "kept" :  "as it is", "kept": 1.10 } '},
    {"payload": None, "payload_bytes": b""},
    {"payload": None, "payload_bytes": bytes(range(256))},
    {"payload": None, "payload_bytes": b"x" * MIB},
]
