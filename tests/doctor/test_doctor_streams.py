"""What is wrong with a stream is named by the right check with the right remedy."""

import nats
import pytest

from relay import devstack
from relay.doctor import State
from relay.jetstream.api import Api, StreamInfo
from tests.doctor.broker import ask, login, make, names
from tests.doctor.examining import (
    FAULT,
    OK,
    SKIPPED,
    WARNING,
    examine_nats,
    expect,
    shown,
    states,
)

pytestmark = pytest.mark.anyio

HEALTHY = {"inbox": WARNING, "replicas": WARNING, "publish": SKIPPED}
"""What is not ok on a single server with the default inbox prefix."""


async def test_a_healthy_server_has_no_fault(accounts: devstack.NatsServer) -> None:
    stream = await make(accounts)
    found = await examine_nats(**login(accounts, stream=stream), subjects=[f"{stream}.a"])
    assert states(found, WARNING, FAULT, SKIPPED) == HEALTHY, shown(found)
    (path,) = (each.seen for each in found if each.check == "path")
    assert path == f"stream {stream}: fast ingest"


@pytest.mark.parametrize(
    ("config", "check", "state", "seen", "remedy"),
    [
        ({"no_ack": True}, "stream", FAULT, "has no_ack", "Set no_ack to false"),
        ({"sealed": True}, "accepts", FAULT, "it is sealed", "publish to another stream"),
        ({"allow_msg_counter": True}, "accepts", FAULT, "it counts", "publish to another stream"),
        ({"storage": "memory"}, "storage", WARNING, "memory storage", "with file storage"),
        ({}, "replicas", WARNING, "one replica", "set num_replicas to 3"),
        (
            {"max_msgs": 5},
            "limits",
            WARNING,
            r"delete old messages \(max_msgs 5\)",
            "discard to new",
        ),
        ({"max_age": 10**12}, "limits", WARNING, "max_age", "consumers are done by then"),
        (
            {"duplicate_window": 10**9},
            "window",
            WARNING,
            "a duplicate window of 1 s",
            "set duplicate_window to 2 minutes or more",
        ),
        (
            {"max_msgs_per_subject": 1},
            "window",
            WARNING,
            "after a server's restart a repeat may be stored again",
            "have consumers expect repeats",
        ),
        (
            {"retention": "interest"},
            "consumers",
            WARNING,
            "without a consumer",
            "make the consumers",
        ),
        (
            {"retention": "workqueue"},
            "consumers",
            WARNING,
            "without a consumer",
            "make its consumer",
        ),
        ({"allow_batched": False}, "path", OK, "windowed, for allow_batched is off", ""),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
async def test_what_a_stream_puts_at_risk_is_named(
    accounts: devstack.NatsServer,
    *,
    config: dict[str, object],
    check: str,
    state: State,
    seen: str,
    remedy: str,
) -> None:
    sealed = config.pop("sealed", False)
    if config.get("allow_msg_counter"):
        config["allow_batched"] = None
    stream = await make(accounts, **config)
    if sealed:
        info = await ask(accounts, f"STREAM.INFO.{stream}", {})
        await ask(accounts, f"STREAM.UPDATE.{stream}", info["config"] | {"sealed": True})
    found = await examine_nats(**login(accounts, stream=stream))
    expect(found, check, state, seen, remedy)


async def test_a_mirror_is_named(accounts: devstack.NatsServer) -> None:
    stream = await make(
        accounts, mirror={"name": await make(accounts)}, subjects=None, allow_batched=None
    )
    found = await examine_nats(**login(accounts, stream=stream))
    expect(found, "stream", FAULT, "is a mirror and takes no message", "name its origin")


async def test_a_stream_that_lacks_a_subject_is_named(accounts: devstack.NatsServer) -> None:
    stream = await make(accounts)
    found = await examine_nats(**login(accounts, stream=stream, stream_subjects=("pay.>",)))
    expect(found, "stream", FAULT, "but not pay.>", "add them to the stream")


async def test_a_stream_without_a_leader_is_named(
    accounts: devstack.NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def listed(api: Api, within: float) -> tuple[list[StreamInfo], set[str]]:
        return [], {"GONE"}

    monkeypatch.setattr(Api, "streams", listed)
    found = await examine_nats(**login(accounts))
    expect(found, "accepts", FAULT, "stream GONE has no leader", "look at its cluster's servers")


async def test_a_full_stream_is_named(accounts: devstack.NatsServer) -> None:
    stream = await make(accounts, max_msgs=1, discard="new")
    client = await nats.connect(accounts.url, user="relay", password="pw")
    await client.jetstream().publish(f"{stream}.a", b"")
    await client.close()
    found = await examine_nats(**login(accounts, stream=stream))
    expect(found, "accepts", FAULT, "holds 1 of 1 messages", "raise max_msgs")


async def test_a_window_shorter_than_the_longest_retry_is_named(
    accounts: devstack.NatsServer,
) -> None:
    stream = await make(accounts)
    found = await examine_nats(**login(accounts, stream=stream, max_retry_delay=600.0))
    expect(found, "window", WARNING, "forgets message ids after 120 s", "duplicate_window to 10min")


async def test_a_subject_that_no_stream_captures_is_named(accounts: devstack.NatsServer) -> None:
    stream = await make(accounts)
    subjects = [f"{stream}.a", "nobody.takes.this"]
    found = await examine_nats(**login(accounts), subjects=subjects)
    expect(found, "captured", FAULT, "no stream captures nobody.takes.this", "create one")
    found = await examine_nats(**login(accounts, stream=stream), subjects=subjects)
    expect(found, "captured", FAULT, "no stream captures nobody", "with it|add it to its subjects")


async def test_a_subject_of_another_stream_is_named(accounts: devstack.NatsServer) -> None:
    stream, other = await make(accounts), await make(accounts)
    found = await examine_nats(**login(accounts, stream=stream), subjects=[f"{other}.a"])
    expect(found, "captured", FAULT, f"stream {other} captures {other}.a, and RELAY_STREAM", "")


async def test_publishing_is_tried_and_nothing_is_stored(accounts: devstack.NatsServer) -> None:
    stream = await make(accounts, subjects=[f"ok.{next(names)}.*"])
    found = await examine_nats(**login(accounts, stream=stream), try_publish=True)
    assert states(found, FAULT) == {}, shown(found)
    (tried,) = (each for each in found if each.check == "publish")
    assert tried.state is OK
    assert "may publish to ok." in tried.seen
    assert (await ask(accounts, f"STREAM.INFO.{stream}", {}))["state"]["last_seq"] == 0
    found = await examine_nats(**login(accounts, "mute", stream=stream), try_publish=True)
    expect(found, "publish", FAULT, "(?i)permissions violation", 'allow publish: "ok.')
