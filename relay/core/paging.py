"""How many events the next page may have.

The first page after a wake is small, so a lone event does not wait for a large read; while pages
come back full there is a backlog, and larger pages cost less an event.
"""


def next_size(size: int, *, found: int, full: bool, first: int, most: int) -> int:
    """Return the limit in events for the page after one of ``size`` that ``found`` events.

    Doubled while pages come back full, kept while they bring anything, ``first`` again after an
    empty one. The result is within [1, ``most``]; ``first`` above ``most`` counts as ``most``.
    """
    if not found:
        return max(1, min(first, most))
    return max(1, min(size * 2 if full else size, most))
