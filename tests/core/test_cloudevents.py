"""CloudEvents in binary mode, by the rules of their NATS binding."""

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from relay.core.cloudevents import binary_mode
from relay.core.event import Event

AT = datetime(2026, 3, 14, 15, 9, 26, 535897, tzinfo=UTC)
EVENT = Event(7, "0190c8f0-aaaa", "relay-0190c8f0", "orders.placed", "17", AT, None, b"{}")

add = binary_mode("/shop", "com.shop.{subject}", "order/{key}")


def headers_of(event: Event = EVENT, **how: Any) -> dict[str, str]:
    return dict(add(event._replace(**how)).headers or {})


def test_the_required_attributes_are_there_and_what_is_known_besides() -> None:
    assert add(EVENT) == EVENT._replace(
        headers={
            "ce-specversion": "1.0",
            "ce-source": "/shop",
            "ce-id": "0190c8f0-aaaa",
            "ce-type": "com.shop.orders.placed",
            "ce-time": "2026-03-14T15:09:26.535897Z",
            "ce-subject": "order/17",
        }
    )


def test_an_attribute_without_a_value_is_left_out() -> None:
    # An attribute that is present is not empty; id, source, specversion and type are REQUIRED.
    found = headers_of(key=None)
    assert "ce-subject" not in found
    assert {"ce-specversion", "ce-id", "ce-source", "ce-type"} <= found.keys()


def test_the_id_is_the_event_s_whatever_its_message_id() -> None:
    # One event, published again by a replay or a repair, has the same source and id.
    again = {"message_id": "relay-0190c8f0-r1", "headers": {"Relay-Replay": "1"}}
    assert headers_of(**again)["ce-id"] == headers_of()["ce-id"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80"),  # the binding's own example
        ('"50%"', "%2250%25%22"),
        ("!#$&'()*+,-./:;<=>?@[\\]^_`{|}~", "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"),
        ("{subject} {key}", "{subject}%20{key}"),
        ("a\x85b", "a%C2%85b"),
    ],
)
def test_values_are_percent_encoded_once(key: str, value: str) -> None:
    assert headers_of(key=key)["ce-subject"] == f"order/{value}"


def test_what_is_encoded_is_printable_ascii_and_decodes_to_what_it_was() -> None:
    key = "".join(map(chr, range(1, 0x110000, 7)))  # surrogates among them
    value = headers_of(key=key)["ce-subject"]
    assert re.fullmatch(r"[!#-~]+", value)
    assert unquote_to_bytes(value) == b"order/" + key.encode(errors="replace")


@pytest.mark.parametrize(
    ("at", "time"),
    [
        (AT.replace(microsecond=0), "2026-03-14T15:09:26Z"),
        (AT.astimezone(timezone(timedelta(hours=5, minutes=45))), "2026-03-14T15:09:26.535897Z"),
    ],
)
def test_the_time_is_rfc_3339(at: datetime, time: str) -> None:
    assert headers_of(created_at=at)["ce-time"] == time


@pytest.mark.parametrize("name", ["Content-Type", "content-type"])
def test_the_content_type_is_the_datacontenttype(name: str) -> None:
    found = headers_of(headers={name: "text/plain; charset=utf-8"})
    assert found["ce-datacontenttype"] == "text/plain;%20charset=utf-8"
    assert found[name] == "text/plain; charset=utf-8"


def test_the_producer_s_own_attributes_win_each_by_itself() -> None:
    own = {"CE-Type": "mine", "ce-partitionkey": "p", "ce-subject": "", "traceparent": "00-…"}
    found = headers_of(headers=own)
    assert own.items() <= found.items()
    assert "ce-type" not in found
    assert found["ce-source"] == "/shop"


@pytest.mark.parametrize(
    "content_type", ["application/cloudevents+json", "Application/CloudEvents; charset=utf-8"]
)
def test_a_structured_cloudevent_stays_as_it_is(content_type: str) -> None:
    event = EVENT._replace(headers={"Content-Type": content_type})
    assert add(event) is event
