"""Why a side is away, in words of our own.

What a driver says of an outage names hosts, ports, logins and databases, and a health answer is
read by whoever reaches it. So nothing of the driver's text is passed on: it picks one of the
sentences below, the first that fits, and the log has the rest.
"""

import re
from typing import Final

SCHEMA: Final = "the schema is not as this relay requires: run `python -m relay migrate`"
LEASE: Final = "the lease is held by a session that is no relay's; the log names it"
UNKNOWN: Final = "the log has the reason"

_SIGNS: Final = {
    SCHEMA: ("python -m relay migrate",),
    LEASE: (r"\blease\b.*\bis no relay",),
    "its login may not do this": (
        "grant this login",
        "permission denied",
        "permissions violation",
    ),
    "it refuses the login": (
        "authentication failed",
        "authorization violation",
        "authentication (expired|revoked)",
        "no password supplied",
        "role .* (does not exist|is not permitted)",
        r"pg_hba\.conf",
        "database .* does not exist",
        "credentials",
        "no such (user|database)",
    ),
    "connection refused": ("connection refused", "connect call failed"),
    "it is starting up": ("starting up", "not yet accepting", "in recovery mode"),
    "it is shutting down": ("shutting down", "lame duck"),
    "it is read-only: a standby, or a demoted primary": ("read-only", "standby"),
    "it has no connection left for us": ("too many (clients|connections)", "connection slots"),
    "its name can't be resolved": (
        "could not translate host name",
        "name or service not known",
        "nodename nor servname",
        "name resolution",
        "getaddrinfo",
    ),
    "the network does not reach it": ("no route to host", "(network|host) is (unreachable|down)"),
    "no encrypted connection comes about": ("certificate", r"\bssl\b", r"\btls\b"),
    "the stream is missing": ("there is no stream",),
    "it does not answer": (
        "(did|does) not answer",
        "no answer",
        "no connection within",
        "time(d )?-?out",
        "timeout expired",
        "stale",
    ),
    "the connection was cut": (
        "closed the connection",
        "terminating connection",
        "connection (is )?(closed|lost|reset)",
        "broken pipe",
        "consuming input failed",
        r"\beof\b",
    ),
}

_WORDS: Final = {re.compile("|".join(signs), re.IGNORECASE): said for said, signs in _SIGNS.items()}


def why(reason: str) -> str:
    """Return the sentence for what a driver said."""
    return next((said for signs, said in _WORDS.items() if signs.search(reason)), UNKNOWN)
