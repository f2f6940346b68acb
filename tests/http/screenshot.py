"""Takes the README's picture: ``python -m tests.http.screenshot [FILE]``.

A real relay on throw-away servers, some minutes of load, an outage of NATS, a few dead events; and
a standby. With --all it also takes the phone's and the dark one, beside the file.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from relay import devstack
from relay.postgres import migrations
from tests.http.asking import TOKEN, Served, park, serving
from tests.http.browsing import PHONE, chromium, looking_at
from tests.http.pngs import smaller
from tests.system.harness import Load, until

PICTURE = Path(__file__).with_name("screenshot.png")
SIZE = (1060, 900)
ERROR = "message size exceeds maximum allowed: 1,310,720 bytes of 1,048,576"


@contextmanager
def running(folder: Path) -> Iterator[tuple[str, devstack.NatsServer, Served]]:
    with devstack.postgres(settings={"fsync": "off"}) as postgres, devstack.nats_server() as nats:
        dsn = postgres.create_database("shop")
        asyncio.run(migrations.migrate(dsn, "relay"))
        settings = {"http_token": TOKEN, "stream": "ORDERS", "max_attempts": "1000"}
        with serving(dsn, nats.url, folder / "one.log", **settings) as one:
            until(lambda: one.is_role("leader"), 20)
            with serving(dsn, nats.url, folder / "two.log", stream="ORDERS"):
                yield dsn, nats, one


def some_life(dsn: str, nats: devstack.NatsServer, seconds: float) -> None:
    """Events, an outage of some seconds in the middle, and two events that nobody can store."""
    with Load(dsn, producers=2, pause=0.012):
        time.sleep(seconds * 0.55)
        nats.stop()
        time.sleep(seconds * 0.05)
        nats.start()
        time.sleep(seconds * 0.4)


async def take(url: str, size: tuple[int, int], scheme: Literal["light", "dark"]) -> bytes:
    async with (
        chromium() as browser,
        looking_at(browser, url, size=size, scheme=scheme) as seen,
    ):
        await seen.has("document.querySelectorAll('#dead-table .event').length > 0")
        await seen.has("document.querySelectorAll('#keys-table tbody tr').length > 0")
        await seen.has("document.querySelectorAll('#relays li').length === 2")
        await asyncio.sleep(3)
        return smaller(await seen.page.screenshot(full_page=True))


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__)
    wanted.add_argument("file", type=Path, nargs="?", default=PICTURE)
    wanted.add_argument("--seconds", type=float, default=280)
    wanted.add_argument("--all", action="store_true")
    args = wanted.parse_args()
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as (dsn, nats, one):
        some_life(dsn, nats, args.seconds)
        with Load(dsn, producers=2, pause=0.012):
            for id_, key in ((900_001, "order-1744"), (910_001, "order-1809")):
                park(dsn, id_, key=key, subject="orders.placed", error=ERROR)
            park(dsn, 920_001, 920_002, dead=False, key="order-1911", subject="refunds.asked")
            args.file.write_bytes(asyncio.run(take(one.url, SIZE, "light")))
            if args.all:
                beside = args.file.with_suffix("")
                Path(f"{beside}-dark.png").write_bytes(asyncio.run(take(one.url, SIZE, "dark")))
                Path(f"{beside}-phone.png").write_bytes(asyncio.run(take(one.url, PHONE, "dark")))


if __name__ == "__main__":
    main()
