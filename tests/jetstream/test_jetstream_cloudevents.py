"""CloudEvents on the wire: an option, off by default."""

import pytest

from relay.core.outcome import Refused, Stored

pytestmark = pytest.mark.anyio


async def test_each_message_is_one_where_a_source_is_set_and_else_none(
    nats_server, look, open_bus, make_event, batched
):
    how = {"cloudevents_source": "urn:a%20b", "cloudevents_subject": "{subject}/{key}"}
    plain, marked = make_event("plain.ü", key="k"), make_event("marked.ü", key="Ä 1")
    async with look(nats_server.url) as seen:
        for event, options in ((plain, {}), (marked, how)):
            name = event.subject[:5]
            await seen.make_stream(name, [event.subject], allow_batched=batched)
            async with open_bus(nats_server.url, **options) as bus:
                poison = make_event(event.subject, headers={"a": 1, "content-type": 2})
                stored, refused = await bus.publish([event, poison])
                assert (type(stored), type(refused)) == (Stored, Refused)
            ((*_, headers),) = await seen.messages(name)
            await seen.ask(f"STREAM.DELETE.{name}")
            found = [line for line in headers.split("\r\n") if line.lower().startswith("ce-")]
            assert found == (
                []
                if not options
                else [
                    "ce-specversion: 1.0",
                    "ce-source: urn:a%2520b",
                    f"ce-id: {event.event_id}",
                    "ce-type: marked.%C3%BC",
                    "ce-time: 2026-03-14T15:09:26.535897Z",
                    "ce-subject: marked.%C3%BC/%C3%84%201",
                ]
            )
