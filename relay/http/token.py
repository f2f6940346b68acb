"""Who may change something: whoever knows the token, and not whoever guesses.

The token comes in the Authorization header, which no other site's page can make a browser send, and
never in a URL, which logs and histories keep. Ten wrong ones from one address are answered, then
one in ten seconds, the others with 429. The right one is let in whatever came before: behind one
proxy everybody has one address. A token of 16 characters or more is not guessed at the rate at
which requests have their turns.
"""

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

MOST_FAILURES: Final = 10
FORGIVEN_EVERY: Final = 10.0
_MOST_ADDRESSES: Final = 1_000
_SCHEME: Final = "bearer"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Not let in: an HTTP status, and what to say."""

    status: int
    says: str
    retry_after: int | None = None


class Token:
    """Knows the token, and who was wrong lately."""

    def __init__(self, token: str | None, now: Callable[[], float] = time.monotonic) -> None:
        """Let nobody in if ``token`` is None."""
        self._digest = None if token is None else sha256(token.encode()).digest()
        self._now = now
        self._failures: dict[str, tuple[float, float]] = {}

    @property
    def has_token(self) -> bool:
        """Whether anybody can be let in."""
        return self._digest is not None

    def check(self, address: str, authorization: str | None) -> Refusal | None:
        """Judge one request; None lets it in."""
        if self._digest is None:
            return Refusal(403, "this page only shows: set RELAY_HTTP_TOKEN to retry from here")
        scheme, _, given = (authorization or "").partition(" ")
        digest = sha256(given.strip().encode()).digest()  # of one length, whatever was given
        if hmac.compare_digest(digest, self._digest) and scheme.lower() == _SCHEME:
            return None
        failures = self._recent(address)
        if failures + 1 > MOST_FAILURES:  # a part of one is forgiven, and is not enough
            return Refusal(429, "too many wrong tokens: wait a little", int(FORGIVEN_EVERY))
        if authorization is None:
            return Refusal(401, "this needs the token")
        self._note(address, failures)
        return Refusal(401, "the token is wrong")

    def _recent(self, address: str) -> float:
        """Return how many failures count still: one is forgiven every ten seconds."""
        failures, at = self._failures.get(address, (0.0, 0.0))
        return max(0.0, failures - (self._now() - at) / FORGIVEN_EVERY)

    def _note(self, address: str, failures: float) -> None:
        self._failures.pop(address, None)
        self._failures[address] = (failures + 1, self._now())
        if len(self._failures) > _MOST_ADDRESSES:
            del self._failures[next(iter(self._failures))]
