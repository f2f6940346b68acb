"""The one thing the page can change: let a dead event be tried again.

What it means and who is right: ``relay.postgres.operator``. Here it is one event by its id, in a
session of its own, one at a time.
"""

import logging
from dataclasses import dataclass

import anyio

from relay.errors import RelayError, SchemaError
from relay.http import reasons
from relay.postgres.operator import DeadEvents, Wanted

log = logging.getLogger("relay.http")

_AT_MOST = 20.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it: an HTTP status, and a sentence for the person."""

    status: int
    says: str


class Retries:
    """Retries dead events of one outbox."""

    def __init__(self, dsn: str, schema: str) -> None:
        """Take what to connect to; connect to nothing yet."""
        self._dsn = dsn
        self._schema = schema
        self._one_at_a_time = anyio.Lock()

    async def retry(self, id_: int, by: str) -> Answer:
        """Let the dead event ``id_`` be tried again; ``by`` goes into the audit."""
        try:
            with anyio.fail_after(_AT_MOST):
                async with self._one_at_a_time:
                    answer = await self._retry(id_, by)
        except TimeoutError:
            return Answer(503, "Postgres does not answer: try again")
        except SchemaError as error:
            return Answer(403, _remedy(error))
        except RelayError as error:
            return Answer(503, f"Postgres is away: {reasons.why(str(error))}")
        log.info("retry asked for on the status page", extra={"id": id_, "said": answer.says})
        return answer

    async def _retry(self, id_: int, by: str) -> Answer:
        async with DeadEvents.open(self._dsn, self._schema) as parked:
            found = await parked.find(Wanted(parked=True, ids=[id_]), 1)
            if found.as_of is None:
                return Answer(404, f"event {id_} is not parked any more")
            if found.events[0].dead_at is None:
                return Answer(409, f"event {id_} is not dead but {found.events[0].state}")
            done: list[int] = []
            await parked.decide("retry", found.events, by=by, as_of=found.as_of, done=done.extend)
        if not done:
            return Answer(409, f"event {id_} is not dead any more")
        return Answer(200, f"event {id_} is tried again")


def _remedy(error: SchemaError) -> str:
    if reasons.why(str(error)) == reasons.SCHEMA:
        return reasons.SCHEMA
    return "the relay's login may not decide on dead events: grant it the operator's role"
