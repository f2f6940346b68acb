"""A nats-server with several accounts and users, and what tests make in it."""

import itertools
import json
from typing import Any

import nats

from relay import devstack

CONFIG = """
accounts {
  APP {
    jetstream: enabled
    users: [
      { user: relay, password: pw }
      { user: mute, password: pw, permissions: { publish: { deny: ["ok.>"] } } }
      { user: deaf, password: pw, permissions: { subscribe: { deny: ["_INBOX.>"] } } }
      { user: blind, password: pw, permissions: { publish: { deny: ["$JS.API.INFO"] } } }
      { user: lost, password: pw, permissions: { publish: { deny: ["$JS.API.STREAM.LIST"] } } }
    ]
  }
  SMALL { jetstream: { max_store: 4096 }, users: [ { user: small, password: pw } ] }
  EMPTY { jetstream: enabled, users: [ { user: empty, password: pw } ] }
  NOJS { users: [ { user: nojs, password: pw } ] }
  SYS { users: [ { user: sys, password: pw } ] }
}
system_account: SYS
max_payload: 1048576
"""
WHOLE = {"storage": "file", "allow_batched": True, "duplicate_window": 120_000_000_000}

names = (f"D{number}" for number in itertools.count(1))


async def ask(server: devstack.NatsServer, verb: str, body: Any, user: str = "relay") -> Any:
    client = await nats.connect(server.url, user=user, password="pw", allow_reconnect=False)
    answer = await client.request(f"$JS.API.{verb}", json.dumps(body).encode(), timeout=5)
    await client.close()
    read = json.loads(answer.data)
    assert "error" not in read, read
    return read


async def make(server: devstack.NatsServer, user: str = "relay", **config: object) -> str:
    """Make a stream of its own name and subjects, whole but for ``config``."""
    name = next(names)
    subjects = [f"{name}.>"] if "mirror" not in config else []
    whole = WHOLE | {"name": name, "subjects": subjects} | config
    await ask(
        server, f"STREAM.CREATE.{name}", {k: v for k, v in whole.items() if v is not None}, user
    )
    return name


def login(server: devstack.NatsServer, user: str = "relay", **more: object) -> dict[str, object]:
    return {"nats_url": server.url, "nats_user": user, "nats_password": "pw"} | more
