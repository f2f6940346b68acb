"""Clients of the status page that ask without a pause: ``python -m bench.asking PORT PATH``.

Fifty keep-alive connections ask for PATH, each again as soon as it is answered; whoever is cut off
connects again. PATH "-" is nobody. Beside them a probe asks for /livez and /readyz in turn, ten
times a second, each time over a connection of its own, as orchestrators do. SIGTERM ends it; the
last line is one JSON object: the answers by status, and how the probe fared.
"""

import asyncio
import json
import re
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field

CLIENTS = 50
PROBE_EVERY, PROBE_WITHIN = 0.1, 10.0
AGAIN_AFTER = 0.01
PROBES = ("/livez", "/readyz")

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_CLOSE = re.compile(rb"(?i)\r\nconnection: *close")


@dataclass
class Asked:
    """What became of it.

    Attributes:
        answers: the clients', by status.
        probes: how many probes were answered by 200.
        failed: the others: a status, or that no answer came.
        slowest: the longest time to a probe's answer, the connecting included, in s.
    """

    answers: Counter[int] = field(default_factory=Counter)
    probes: int = 0
    failed: list[str] = field(default_factory=list)
    slowest: float = 0.0


async def ask(port: int, path: str, asked: Asked) -> None:
    """Ask for ``path`` until cancelled."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(AGAIN_AFTER)
            continue
        try:
            keeps = True
            while keeps:
                status, keeps = await answer(reader, writer, path)
                asked.answers[status] += 1
        except (OSError, asyncio.IncompleteReadError):
            await asyncio.sleep(AGAIN_AFTER)
        finally:
            writer.close()


async def answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str
) -> tuple[int, bool]:
    """Ask once; the status, and whether the connection is kept."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = _LENGTH.search(head)
    if length is None:  # a stream of events: for as long as it lasts
        while await reader.read(65_536):
            pass
        return int(head[9:12]), False
    await reader.readexactly(int(length[1]))
    return int(head[9:12]), _CLOSE.search(head) is None


async def probe(port: int, asked: Asked) -> None:
    """Probe until nobody listens any more; what counts is between the first 200 and the last."""
    loop, number, ready = asyncio.get_running_loop(), 0, False
    failed: list[str] = []
    while True:
        began = loop.time()
        try:
            async with asyncio.timeout(PROBE_WITHIN):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    status, _ = await answer(reader, writer, PROBES[number % 2])
                finally:
                    writer.close()
        except TimeoutError:
            failed.append("no answer")
        except (OSError, asyncio.IncompleteReadError):
            if asked.probes:
                return
            await asyncio.sleep(AGAIN_AFTER)
            continue
        else:
            took = loop.time() - began
            asked.slowest = max(asked.slowest, took)
            if status == 200:
                asked.probes += 1
                if number % 2:
                    asked.failed += failed if ready else []
                    ready, failed = True, []
            else:
                failed.append(f"{PROBES[number % 2]}: {status}")
        number += 1
        await asyncio.sleep(PROBE_EVERY)


async def main(port: int, path: str) -> None:
    """Ask until SIGTERM."""
    asked, stop = Asked(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    clients = 0 if path == "-" else CLIENTS
    tasks = [asyncio.create_task(ask(port, path, asked)) for _ in range(clients)]
    tasks.append(asyncio.create_task(probe(port, asked)))
    await stop.wait()
    for task in tasks:
        task.cancel()
    print(json.dumps(vars(asked)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
