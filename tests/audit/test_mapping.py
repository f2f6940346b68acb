"""Outboxes and messages of other shapes, and what the README shows of them."""

import asyncio
import json
import re
import uuid
from typing import Any

import nats
import psycopg
import pytest

from relay.audit.stream import field_of, json_text_digest, place
from relay.errors import SettingsError
from tests.audit.conftest import Ask
from tests.system.harness import ROOT, STREAM

README = (ROOT / "relay/audit/README.md").read_text(encoding="utf-8")
ENVELOPES = """
create table public."Events" (
  seq bigserial primary key, uid uuid not null, aggregate text, data jsonb, at timestamp not null
)
"""


def publish(url: str, *messages: tuple[bytes, dict[str, str] | None]) -> None:
    async def go() -> None:
        async with await nats.connect(url) as client:
            js = client.jetstream()
            await js.add_stream(name=STREAM, subjects=["orders.>"])
            for payload, headers in messages:
                await js.publish("orders.x", payload, headers=headers)

    asyncio.run(go())


def audited(ask: Ask, *args: str) -> tuple[list[tuple[str, int | None, int | None]], Any]:
    done = ask("audit", "--json", "--grace", "0s", *args)
    assert done.stdout, done.stderr
    *lines, last = map(json.loads, done.stdout.splitlines())
    found = [(each["finding"], each["sequence"], each["seq"]) for each in lines]
    return sorted(found, key=str), last["report"]


def test_ids_keys_and_payloads_may_stand_in_an_envelope_of_json(
    outbox_dsn: str, own_nats: Any, ask: Ask
) -> None:
    ids = [str(uuid.uuid4()) for _ in range(3)]
    publish(own_nats.url)
    with psycopg.connect(outbox_dsn) as connection:
        connection.execute(ENVELOPES)
        for n, uid in enumerate(ids):
            data = json.dumps({"n": n, "a": [1.50, None]})
            insert = 'insert into "Events" (uid, aggregate, data, at) values (%s, %s, %s, now())'
            connection.execute(insert, (uid, "a", data))

    def envelope(n: int, **more: Any) -> tuple[bytes, None]:
        value = {"meta": {"id": f"ev-{ids[n]}", "key": "a"}, "data": {"a": [1.5, None], "n": n}}
        return json.dumps(value | more).encode(), None

    publish(own_nats.url, envelope(0), envelope(1, data={"n": 9}), (b"no json", None))
    found, report = audited(
        ask,
        *("--table", "Events", "--sequence", "seq", "--event-id", "uid", "--key", "aggregate"),
        *("--payload", "data", "--written-at", "at", "--message-id", "json:meta.id"),
        *("--id-prefix", "ev-", "--message-key", "json:meta.key", "--message-payload", "data"),
    )
    assert found == [("corrupt", 2, 2), ("lost", 3, None)]
    assert report["not_judged"] == {"messages of other publishers": 1}


def test_the_readme_s_copy_of_a_table_whose_rows_are_deleted_can_be_audited(
    outbox_dsn: str, own_nats: Any, ask: Ask
) -> None:
    (copy,) = re.findall(r"```sql\n(.*?)```", README, re.DOTALL)
    publish(own_nats.url)
    with psycopg.connect(outbox_dsn) as connection:
        connection.execute(
            "set search_path = public;"
            "create table outbox (id bigint generated always as identity, aggregate_id text,"
            " topic text, body text, created_at timestamptz not null default now())"
        )
        connection.execute(copy.encode())
        for n in range(2):
            connection.execute(
                "insert into outbox (aggregate_id, body) values ('a', %s)", (str(n),)
            )
        connection.execute("delete from outbox")
    publish(own_nats.url, (b"0", {"Nats-Msg-Id": "1"}))
    (shown,) = re.findall(
        r"^    relay audit --stream ORDERS --follow \\\n(.*?)\n\n", README, re.MULTILINE | re.DOTALL
    )
    args = shown.replace("\\\n", " ").replace("public.outbox", "public.outbox_copy").split()
    found, _ = audited(ask, *args)
    assert found == [("lost", 2, None)]


def test_every_option_of_the_mapping_is_in_the_readme(ask: Ask) -> None:
    named = set(re.findall(r"^\| `(--[a-z-]+)` \|", README, re.MULTILINE))
    shown = ask("audit", "--help", COLUMNS="300").stdout
    options = set(re.findall(r"│ (--[a-z-]+) ", shown.partition("Settings")[0]))
    assert options - {"--serial-keys", "--follow", "--every", "--json", "--help"} == named


def test_places() -> None:
    assert place("none") is None
    find = place("header:X-Id")
    assert find is not None
    assert find(b"NATS/1.0\r\nx-id: a\r\nX-Id: b \r\n\r\n", b"") == "b "
    find = place("json:a.b")
    assert find is not None
    assert [find(b"", each) for each in (b'{"a": {"b": 7}}', b'{"a": 1}', b"[", b"\xff")] == [
        "7",
        None,
        None,
        None,
    ]
    for wrong in ("", "header:", "X-Id", "json"):
        with pytest.raises(SettingsError, match="is no place in a message"):
            place(wrong)


def test_json_is_compared_as_values() -> None:
    assert json_text_digest('{"b": 1.50, "a": [1]}') == json_text_digest(b'{"a":[1],"b":1.5}')
    assert json_text_digest('{"a": 1}') != json_text_digest('{"a": "1"}')
    assert json_text_digest("{") is None
    assert field_of(b'{"a": {"b": null}}', "a.b.c") is None
