"""What every bus adapter keeps."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol
from uuid import uuid4

import pytest

from relay.core.event import Event
from relay.core.outcome import Fault, Refused, Stored, Unknown
from relay.errors import BusOutage, TermLost
from relay.ports import EventBus
from tests.contract.permits import Always, Never

pytestmark = pytest.mark.anyio


class BusHarness(Protocol):
    """One bus that stores ``orders.>``, and a look at what it holds."""

    bus: EventBus

    async def stored(self) -> list[tuple[str, str, bytes]]:
        """Return (subject, message id, payload) of every stored message, in stream order."""
        ...

    async def go_away(self) -> None:
        """Make the broker unreachable."""
        ...

    async def come_back(self) -> None:
        """Make it reachable again."""
        ...


def event(number: int, *, key: str | None = None, subject: str = "orders.placed") -> Event:
    id_ = str(uuid4())
    return Event(number, id_, f"relay-{id_}", subject, key, datetime.now(UTC), None, b"%d" % number)


def payloads(stored: Sequence[tuple[str, str, bytes]]) -> list[bytes]:
    return [payload for _, _, payload in stored]


class BusContract:
    """Subclass it with a fixture ``harness``. R-LOSS, R-ORDER, R-ONCE."""

    async def test_events_are_stored_in_order_with_one_outcome_each(
        self, harness: BusHarness
    ) -> None:
        events = [event(number, key=f"k{number % 3}") for number in range(10)]
        outcomes = await harness.bus.publish(events, Always())
        assert len(outcomes) == 10
        assert all(isinstance(outcome, Stored) for outcome in outcomes)
        stored = await harness.stored()
        for key in range(3):
            mine = [payload for payload in payloads(stored) if int(payload) % 3 == key]
            assert mine == sorted(mine, key=int)
        assert {message_id for _, message_id, _ in stored} == {e.message_id for e in events}

    async def test_a_repeated_message_id_is_stored_once_and_called_stored(
        self, harness: BusHarness
    ) -> None:
        events = [event(1, key="k"), event(2, key="k")]
        await harness.bus.publish(events, Always())
        again = await harness.bus.publish([*events, event(3, key="k")], Always())
        assert all(isinstance(outcome, Stored) for outcome in again)
        assert payloads(await harness.stored()) == [b"1", b"2", b"3"]

    async def test_a_message_id_that_another_event_has_is_a_collision(
        self, harness: BusHarness
    ) -> None:
        # R-ONCE
        first, second = (event(n)._replace(message_id="order-1") for n in (1, 2))
        assert isinstance((await harness.bus.publish([first], Always()))[0], Stored)
        assert isinstance((await harness.bus.publish([first], Always()))[0], Stored)
        (outcome,) = await harness.bus.publish([second], Always())
        assert isinstance(outcome, Refused)
        assert outcome.fault is Fault.COLLISION
        assert payloads(await harness.stored()) == [b"1"]

    async def test_a_refused_event_holds_up_its_key_and_nothing_else(
        self, harness: BusHarness
    ) -> None:
        outcomes = await harness.bus.publish(
            [
                event(1, key="k"),
                event(2, key="k", subject="nobody.listens"),
                event(3, key="k"),
                event(4, key="other"),
                event(5),
            ],
            Always(),
        )
        assert [type(each) for each in outcomes] == [Stored, Refused, Unknown, Stored, Stored]
        assert sorted(payloads(await harness.stored())) == [b"1", b"4", b"5"]

    async def test_an_absent_broker_is_an_outage_and_its_return_the_end_of_it(
        self, harness: BusHarness
    ) -> None:
        await harness.bus.connect()
        await harness.go_away()
        with pytest.raises(BusOutage):
            await harness.bus.publish([event(1)], Always())
        with pytest.raises(BusOutage):
            await harness.bus.connect()
        await harness.come_back()
        outcomes = await harness.bus.publish([event(1)], Always())
        assert isinstance(outcomes[0], Stored)

    async def test_nothing_is_sent_without_a_permit(self, harness: BusHarness) -> None:
        # R-TERM
        await harness.bus.connect()
        with pytest.raises(TermLost):
            await harness.bus.publish([event(1), event(2)], Never())
        assert await harness.stored() == []
        outcomes = await harness.bus.publish([event(3)], Always())
        assert isinstance(outcomes[0], Stored)

    async def test_a_stored_event_names_its_stream(self, harness: BusHarness) -> None:
        (outcome,) = await harness.bus.publish([event(1)], Always())
        assert isinstance(outcome, Stored)
        assert outcome.stream in harness.bus.paths

    async def test_closing_twice_is_fine_and_connecting_again_works(
        self, harness: BusHarness
    ) -> None:
        await harness.bus.connect()
        await harness.bus.close()
        await harness.bus.close()
        await harness.bus.connect()
        assert isinstance((await harness.bus.publish([event(1)], Always()))[0], Stored)
