"""A bus, a store and an outbox that answer at once, or fail as they are told."""

from datetime import UTC, datetime, timedelta
from typing import ClassVar

from relay.core.event import Event
from relay.core.outcome import Stored
from relay.core.storage import StreamStorage
from relay.errors import BusOutage
from relay.ports import Backlog, Page

STREAMS = {"orders": "ORDERS", "users": "USERS"}


def event(number, subject="orders.placed", age=0.0):
    created_at = datetime.now(UTC) - timedelta(seconds=age)
    return Event(number, str(number), f"m{number}", subject, None, created_at, None, b"x")


def stream_of(event):
    return STREAMS.get(event.subject.partition(".")[0], "")


class Bus:
    """A bus that stores every event, or answers as it is told."""

    paths: ClassVar = {"ORDERS": "windowed"}
    sole_hold = "stream ORDERS"
    server = ("nats.example", 4222)
    reconciling = None
    duplicate_window = 120.0

    def __init__(self, answers=None):
        self.answers = answers
        self.away = False
        self.asked = []

    async def publish(self, events, permit, *, closed=()):
        self.asked.append((permit, closed))
        if self.away:
            raise BusOutage("away")
        return self.answers or [Stored(stream_of(event)) for event in events]

    async def storage(self):
        return [StreamStorage("ORDERS", 1, 2)]

    def learnt(self):
        return {"ORDERS": {"orders.>"}}

    async def connect(self):
        self.asked.append("connect")

    async def close(self):
        self.asked.append("close")

    def recall(self, streams):
        self.asked.append(streams)


class Parked:
    """What is parked: nothing."""

    async def blocked(self, _):
        return set()

    async def due(self, _, *, without=()):
        return [*without]


class Store:
    """A term that answers everything, or fails as it is told."""

    epoch = 7
    checkpoints = None

    def __init__(self, events=()):
        self.parked = Parked()
        self.events = events
        self.error = None
        self.closed = False

    async def read(self, _):
        self._fail()
        return Page(self.events, None, full=False)

    async def settle(self, _):
        self._fail()

    async def look(self, _):
        return Backlog(1, 2.0, 3)

    async def tend(self, _):
        return 4

    async def report(self, _):
        self._fail()

    async def renew(self):
        self._fail()

    async def streams(self):
        return {"A": {"a.>"}}

    async def keep_streams(self, _):
        self._fail()

    def granted(self):
        return True

    async def watch(self):
        self._fail()

    async def close(self):
        self.closed = True

    def _fail(self):
        if self.error is not None:
            raise self.error


class Outbox:
    """An outbox of one term at a time."""

    def __init__(self, store=None):
        self.store = store

    async def campaign(self, _):
        return self.store

    async def released(self, seconds):
        pass

    async def storage(self):
        return "as it is"

    async def close(self):
        self.store = None
