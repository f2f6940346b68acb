"""Which of a connection string's hosts are tried, for how long, and which one a term stays with.

    term's first session ──tries the hosts in order──► the one that takes writes
    its other sessions   ──────────────────────────────► that one alone

libpq gives every host the whole of ``connect_timeout``: two that accept and answer nothing before
the primary would use up any deadline that knows of one. And sessions that search by themselves
could find different servers while two of them take writes; those of one term must not.
"""

import os
from collections.abc import Mapping
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

LEAST_EACH: Final = 2
"""Seconds; libpq takes nothing shorter."""


def count(given: Mapping[str, Any]) -> int:
    """Count the hosts of a connection string's parameters, or of the PG* variables."""
    lists = (
        given.get("host") or os.environ.get("PGHOST"),
        given.get("hostaddr") or os.environ.get("PGHOSTADDR"),
    )
    return max(1 + str(each or "").count(",") for each in lists)


def patience(given: Mapping[str, Any], whole: int) -> tuple[int, float]:
    """Share ``whole`` s among the hosts: seconds for each, and until all of them have had theirs.

    A ``connect_timeout`` that somebody gave is theirs; but none at all (0) is not to be had here,
    and what is no number psycopg refuses.
    """
    hosts = count(given)
    theirs = str(given.get("connect_timeout") or "").strip()
    each = int(theirs) if theirs.isdecimal() else 0
    each = each or max(LEAST_EACH, whole // hosts)
    return each, float(hosts * max(each, LEAST_EACH) + 1)


def pinned(dsn: str, connection: psycopg.AsyncConnection[Any]) -> str:
    """Return ``dsn`` for the very server of ``connection``, where it names several."""
    given, info = conninfo_to_dict(dsn), connection.info
    if count(given) == 1 or not info.host:
        return dsn
    server: dict[str, Any] = {"host": info.host, "port": info.port}
    if given.get("hostaddr") or os.environ.get("PGHOSTADDR"):
        server["hostaddr"] = info.hostaddr
    return make_conninfo(dsn, **server)
