"""The library's face: one object, run once, and settings that reach their adapters."""

import dataclasses
from pathlib import Path

import anyio
import pytest

from relay import Relay, Settings
from relay.app import _outbox, bus_options
from relay.errors import AlreadyRunning
from relay.facts import Fact, TermBegan
from relay.jetstream import BusOptions
from relay.memory import MemoryBus, MemoryOutbox
from relay.postgres.outbox import PostgresOutbox

pytestmark = pytest.mark.anyio


def modelled(outbox: MemoryOutbox, bus: MemoryBus, facts: list[Fact]) -> Relay:
    return Relay(Settings(), outbox=outbox, bus=bus, wake_source=outbox.bell, observer=facts.append)


async def test_an_application_can_test_with_the_models() -> None:
    outbox, bus, facts = MemoryOutbox(), MemoryBus(), list[Fact]()
    relay = modelled(outbox, bus, facts)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(relay.run)
        outbox.emit("orders.placed", b"{}", key="7", headers={"traceparent": "00-1-2-01"})
        with anyio.fail_after(10):
            while relay.metrics()["delivered"] < 1:
                await anyio.sleep(0.001)
        relay.stop()
    (message,) = bus.messages
    assert (message.subject, message.key, message.headers["traceparent"]) == (
        "orders.placed",
        "7",
        "00-1-2-01",
    )
    metrics = relay.metrics()
    assert metrics["delivery_rate"] > 0
    assert metrics["undelivered"] >= 0
    assert metrics["delivery_lag_seconds"] >= 0
    assert isinstance(facts[0], TermBegan)


async def test_a_relay_runs_once() -> None:
    relay = modelled(MemoryOutbox(), MemoryBus(), [])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(relay.run)
        with anyio.fail_after(10):
            while not relay.metrics()["leading"]:
                await anyio.sleep(0.001)
        with pytest.raises(AlreadyRunning):
            await relay.run()
        relay.stop()
        relay.stop()
    with pytest.raises(AlreadyRunning):
        await relay.run()


async def test_a_relay_stopped_before_it_ran_returns_at_once() -> None:
    outbox = MemoryOutbox()
    relay = modelled(outbox, MemoryBus(), [])
    relay.stop()
    with anyio.fail_after(10):
        await relay.run()
    assert outbox.epoch == 0


def test_the_lifetime_of_the_lease_reaches_postgres() -> None:
    assert isinstance(outbox := _outbox(Settings(lease_lifetime=17.0)), PostgresOutbox)
    assert outbox.lease_lifetime == 17.0


def test_every_setting_of_nats_reaches_its_adapter(tmp_path: Path) -> None:
    files = {}
    for name in ("tls_ca", "tls_cert", "tls_key"):
        files[name] = tmp_path / name
        files[name].write_text("-")
    settings = Settings(
        nats_url="tls://a:4222,tls://b:4222",
        nats_user="user",
        nats_password="pass",
        nats_tls_ca=files["tls_ca"],
        nats_tls_cert=files["tls_cert"],
        nats_tls_key=files["tls_key"],
        nats_inbox_prefix="_INBOX_relay",
        stream="ORDERS",
        stream_subjects="orders.>,refunds.*",
        stream_create=True,
        nats_js_domain="hub",
        message_id_prefix="shop:",
        cloudevents_source="/shop",
        cloudevents_type="shop.{subject}",
        cloudevents_subject="order/{key}",
        repair="off",
    )
    assert bus_options(settings) == BusOptions(
        urls=("tls://a:4222", "tls://b:4222"),
        user="user",
        password="pass",
        tls_ca=str(files["tls_ca"]),
        tls_cert=str(files["tls_cert"]),
        tls_key=str(files["tls_key"]),
        inbox_prefix="_INBOX_relay",
        stream="ORDERS",
        stream_subjects=("orders.>", "refunds.*"),
        stream_create=True,
        js_domain="hub",
        message_id_prefix="shop:",
        cloudevents_source="/shop",
        cloudevents_type="shop.{subject}",
        cloudevents_subject="order/{key}",
        reconcile=False,
    )
    creds = tmp_path / "creds"
    creds.write_text("-")
    assert bus_options(Settings(nats_creds=creds)).creds == str(creds)
    assert bus_options(Settings(nats_token="token")).token == "token"
    seed = "SUAMK2FG4MI6UE3ACF3FK3OIQBCEIEZV7NSWFFEW63UXMRLFM2XLAXK4GY"
    assert bus_options(Settings(nats_nkey_seed=seed)).nkey_seed == seed
    (tmp_path / "token").write_text("token\n")
    from_file = Settings.load({}, {"RELAY_NATS_TOKEN_FILE": str(tmp_path / "token")})
    assert bus_options(from_file).secret_files == (("token", str(tmp_path / "token")),)
    tuned = {"ack_timeout", "connect_timeout", "ping_interval", "window", "name"}
    set_above = (
        {"urls", "user", "password", "creds", "token", "nkey_seed", "inbox_prefix", "secret_files"}
        | {
            *("js_domain", "message_id_prefix", "reconcile"),
        }
        | {
            name
            for name in BusOptions.__slots__
            if name.startswith(("tls_", "stream", "cloudevents_"))
        }
    )
    assert {field.name for field in dataclasses.fields(BusOptions)} == tuned | set_above
