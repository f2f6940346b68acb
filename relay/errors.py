"""Every error of ours, by kind.

The class is the kind, and the kind says what a caller does about it:

    RelayError
    ├── Misconfigured      a person has to change something (exit 2 or 3)
    │   ├── SettingsError      the settings, every fault at once      exit 2
    │   ├── SchemaError        the database is not as required        exit 3
    │   └── StreamError        the stream is not as required          exit 3
    ├── Outage             one side is away; wait and try again, it costs no event an attempt
    │   ├── StoreOutage        Postgres
    │   │   ├── StoreFull
    │   │   ├── StoreBusy
    │   │   ├── StoreReadOnly
    │   │   ├── LeaseTaken
    │   │   └── StoreLoginRefused
    │   ├── BusOutage          NATS
    │   │   └── BusLoginRefused
    │   └── LoginRefused       either of the two: at the first start a person has to act (exit 2)
    ├── EventRefused       a rule of the outbox refuses what a producer wrote
    ├── NoTransaction      a producer has none open, so its event would be committed by itself
    ├── TermLost           another relay leads now; stand by
    │   └── StreamBehind       a stream has lost acknowledged messages; begin anew
    └── AlreadyRunning     run() was called twice on one Relay

What one event's publishing came to is a value, not an error: see ``relay.core.outcome``.
A driver's error that no adapter translates passes through untouched: a bug must look like a bug.
"""

NOT_THERE = frozenset({"3F000", "42P01", "42703", "42883"})
"""SQLSTATEs: no such schema, table or view, column, function."""


class RelayError(Exception):
    """Base of every error that the relay raises on purpose.

    ``exit_code`` is what a command exits with when the error ends it.
    """

    exit_code = 1


class Misconfigured(RelayError):
    """Something a person has to change before the relay can work."""

    exit_code = 3


class SettingsError(Misconfigured):
    """Settings that can't be used. ``faults`` names each one with its source and remedy."""

    exit_code = 2

    def __init__(self, faults: list[str]) -> None:
        """Keep every fault, one line each."""
        self.faults = faults
        super().__init__("\n".join(faults))


class SchemaError(Misconfigured):
    """The database's schema is missing, changed or newer than this relay."""


class StreamError(Misconfigured):
    """A JetStream stream is missing or can't do what was asked of it."""


class Outage(RelayError):
    """One side is away or does not answer; trying again later is the remedy."""


class StoreOutage(Outage):
    """Postgres is away, not accepting, or did not answer within a deadline."""


class StoreFull(StoreOutage):
    """Postgres has no room for what was to be written; the session is as good as before."""


class StoreBusy(StoreOutage):
    """A lock, or a session of the pool, was not to be had in time; nothing is changed."""


class LeaseTaken(StoreOutage):
    """The advisory lock of the lease is held by a session that is no relay's."""


class StoreReadOnly(StoreOutage):
    """Postgres takes no writes here: a standby, or a demoted primary. Another server leads now."""


class BusOutage(Outage):
    """NATS is away, not accepting, or did not answer within a deadline."""


class LoginRefused(Outage):
    """The server does not let us in as we are set up: login, TLS, certificate, reply inbox.

    After the first success it counts as an outage, for passwords may be changing; at the first try
    a person has to act (exit 2).
    """

    exit_code = 2


class StoreLoginRefused(StoreOutage, LoginRefused):
    """Postgres refuses the role, its password or the database's name."""


class BusLoginRefused(BusOutage, LoginRefused):
    """NATS refuses the credentials."""


class EventRefused(RelayError):
    """An event that can't be published, refused where it was written. ``rule`` names the rule.

    The rules, and what each asks for, stand in sql/README.md. The transaction has failed.
    """

    def __init__(self, message: str, rule: str) -> None:
        """Keep the table's own words, and the rule's name."""
        self.rule = rule
        super().__init__(message)


class NoTransaction(RelayError):
    """``emit`` was called where each statement commits by itself. Nothing was written."""


class TermLost(RelayError):
    """This relay's term has ended: the epoch has moved on, or the lease session is gone."""


class StreamBehind(TermLost):
    """Streams have lost messages that they had acknowledged. ``streams`` names them."""

    def __init__(self, streams: list[str]) -> None:
        """Keep the names."""
        self.streams = streams
        super().__init__(f"acknowledged messages are gone from {', '.join(streams)}: going back")


class AlreadyRunning(RelayError):
    """A Relay object runs once; make another one to run again."""


def sole(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one error of ours that ended a task group; the group itself if there are others.

    A task group that one task ends with an outage raises a group of it, and often the same outage
    again from its neighbours. Anything else in the group is a bug and must stay visible.
    """
    leaves: list[BaseException] = []
    nested: list[BaseException] = [group]
    while nested:
        error = nested.pop()
        if isinstance(error, BaseExceptionGroup):
            nested.extend(reversed(error.exceptions))
        else:
            leaves.append(error)
    if all(isinstance(leaf, RelayError) for leaf in leaves):
        return leaves[0]
    return group
