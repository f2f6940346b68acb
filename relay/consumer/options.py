"""Every option of a consumer, once: its default and bounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from relay.errors import SettingsError

MOST_IN_HAND: Final = 50_000
LEAST_KEPT: Final = 60.0
LEAST_LEASE: Final = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a consumer works; times in s.

    Attributes:
        subjects: what of the stream is read; empty for all.
        only_new: a JetStream consumer that has to be made begins with what comes then.
        batches: the handler takes a list of messages.
        batch: messages that one transaction takes at most.
        lanes: transactions at the same time; a key's messages are all in one of them.
        in_hand: messages in hand at most.
        handler_timeout: how long a call of the handler may take.
        max_attempts: how often the handler may fail with a message before that is dead.
        retry_delay, max_retry_delay: pauses between these: the first at most, and the longest.
        on_dead: what a dead message does to its key: "block" or "skip".
        retention: how long a message that was taken is remembered beyond its redelivery.
        lease_lifetime: how long a process that is silent leads.
        ack_wait: until JetStream delivers again, of a JetStream consumer that has to be made.
        shutdown_timeout: how long a stop may wait for the transactions under way.
        js_domain: JetStream's domain.
    """

    subjects: Sequence[str] = ()
    only_new: bool = False
    batches: bool = False
    batch: int = 100
    lanes: int = 4
    in_hand: int = 1000
    handler_timeout: float = 30.0
    max_attempts: int = 10
    retry_delay: float = 0.5
    max_retry_delay: float = 30.0
    on_dead: str = "block"
    retention: float = 86_400.0
    lease_lifetime: float = 5.0
    ack_wait: float = 30.0
    shutdown_timeout: float = 8.0
    js_domain: str = ""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SettingsError: every fault at once.
        """
        checks = (
            (self.batch >= 1, f"batch is {self.batch}: it has to be 1 or more"),
            (self.lanes >= 1, f"lanes is {self.lanes}: it has to be 1 or more"),
            (1 <= self.in_hand <= MOST_IN_HAND, f"in_hand is {self.in_hand}: 1 to {MOST_IN_HAND}"),
            (self.handler_timeout > 0, f"handler_timeout is {self.handler_timeout:g} s: above 0"),
            (self.max_attempts >= 1, f"max_attempts is {self.max_attempts}: 1 or more"),
            (self.retry_delay > 0, f"retry_delay is {self.retry_delay:g} s: above 0"),
            (
                self.max_retry_delay >= self.retry_delay,
                f"max_retry_delay is {self.max_retry_delay:g} s: not below retry_delay",
            ),
            (self.on_dead in ("block", "skip"), f"on_dead is {self.on_dead!r}: block or skip"),
            (self.retention >= LEAST_KEPT, f"retention is {self.retention:g} s: 60 or more"),
            (
                self.lease_lifetime >= LEAST_LEASE,
                f"lease_lifetime is {self.lease_lifetime:g} s: 2 or more",
            ),
            (self.ack_wait >= 1, f"ack_wait is {self.ack_wait:g} s: 1 or more"),
            (
                not isinstance(self.subjects, str),
                f"subjects is the text {self.subjects!r}: give a list of them",
            ),
        )
        if faults := [fault for fine, fault in checks if not fine]:
            raise SettingsError(faults)
