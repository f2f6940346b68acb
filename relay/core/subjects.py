"""NATS subjects: what is literal, and which pattern takes which subject.

A subject is tokens joined by dots. In a pattern ``*`` stands for exactly one token and a last
``>`` for one or more. JetStream stores a message published to ``orders.*`` under that very name,
so a wildcard in an event's subject is always a mistake.
"""

import re

_NOT_LITERAL = re.compile(r"[\x00-\x20\x7f*>]")


def matches(pattern: str, subject: str) -> bool:
    """Say whether ``pattern`` takes every subject that ``subject`` stands for.

    ``subject`` may be literal or itself a pattern: ``a.>`` takes ``a.*``, and not the reverse.
    """
    if pattern == subject:
        return True
    tokens = subject.split(".")
    wanted = pattern.split(".")
    for place, want in enumerate(wanted):
        if place >= len(tokens):
            return False
        if want == ">":
            return True
        if tokens[place] == ">" or (want != "*" and want != tokens[place]):
            return False
    return len(wanted) == len(tokens)


def fault_of(subject: str) -> str | None:
    """Say why nothing may be published to ``subject``, or None if it is a literal subject.

    ``$…`` belongs to the server (publishing there can delete a stream) and ``_INBOX…`` to answers.
    """
    if not subject:
        return "the subject is empty"
    if _NOT_LITERAL.search(subject):
        return f"the subject {subject!r} has a wildcard, a space or a control character"
    if not all(subject.split(".")):
        return f"the subject {subject!r} has an empty token"
    if subject.startswith(("$", "_INBOX")):
        return f"the subject {subject!r} is reserved by NATS"
    return None
