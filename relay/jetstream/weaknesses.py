"""What a stream's configuration puts at risk, each with its remedy. Pure.

A weakness is a warning, for the stream still takes events: it is its owner's choice what they are
worth. Only ``no_ack`` is none: a stream that never answers can't be relayed to at all.
"""

from relay.jetstream.answers import Json

MIN_DUPLICATE_WINDOW_NS = 120_000_000_000
"""Two minutes: the server's default, and what a take-over with its retries needs."""


def weaknesses(config: Json, *, consumers: int, can_batch: bool) -> list[tuple[str, str]]:
    """List (what is weak, what to do about it) for a stream's configuration.

    Args:
        config: the ``config`` of STREAM.INFO.
        consumers: how many consumers the stream has.
        can_batch: the server knows fast ingest.
    """
    found = [*_durability(config), *_limits(config), *_interest(config, consumers)]
    return [*found, *_forgetting(config)] + (
        [("allow_batched is off", "set allow_batched for the fast ingest path")]
        if can_batch and not config.get("allow_batched")
        else []
    )


def _durability(config: Json) -> list[tuple[str, str]]:
    found = []
    if config.get("storage") == "memory":
        found.append(("memory storage: a restart loses it", "make it anew with file storage"))
    if config.get("num_replicas", 1) < 2:  # noqa: PLR2004
        found.append(
            ("one replica: it is away with its server", "set num_replicas to 3 on a cluster")
        )
    if config.get("persist_mode") == "async":
        found.append(
            ("persist_mode async: a crash loses acknowledged messages", "use persist_mode default")
        )
    return found


def _limits(config: Json) -> list[tuple[str, str]]:
    found = []
    limits = {
        name: config.get(name) or 0
        for name in ("max_msgs", "max_bytes", "max_age", "max_msgs_per_subject")
    }
    evicting = [f"{name} {value}" for name, value in limits.items() if value > 0]
    if config.get("max_age", 0) > 0 and config.get("discard") == "new":
        evicting = [f"max_age {limits['max_age']}"]
    if evicting and (config.get("discard", "old") == "old" or limits["max_age"] > 0):
        found.append(
            (
                f"limits that delete old messages ({', '.join(evicting)})",
                "set discard to new, or make sure that consumers are done by then",
            )
        )
    window = config.get("duplicate_window", 0)
    if window < MIN_DUPLICATE_WINDOW_NS:
        found.append(
            (
                f"a duplicate window of {window / 1e9:g} s: later repeats are stored again",
                "set duplicate_window to 2 minutes or more",
            )
        )
    if config.get("sealed"):
        found.append(("it is sealed: it takes no message", "publish to another stream"))
    if config.get("allow_msg_counter"):
        found.append(
            ("it counts (allow_msg_counter): it takes no event", "publish to another stream")
        )
    return found


def _interest(config: Json, consumers: int) -> list[tuple[str, str]]:
    retention = config.get("retention", "limits")
    if retention == "interest" and consumers == 0:
        return [
            (
                "interest retention without a consumer: acknowledged messages are not kept",
                "make the consumers first, or use limits retention",
            )
        ]
    if retention == "workqueue" and consumers == 0:
        return [("workqueue retention without a consumer", "make its consumer")]
    return []


def _forgetting(config: Json) -> list[tuple[str, str]]:
    """Find what makes a restarted server forget message ids: it learns them from what is left."""
    reasons = [
        f"{retention} retention"
        for retention in ("workqueue", "interest")
        if config.get("retention") == retention
    ]
    if (config.get("max_msgs_per_subject") or 0) > 0:
        reasons.append("max_msgs_per_subject")
    if not reasons:
        return []
    what = f"{' and '.join(reasons)}: after a server's restart a repeat may be stored again"
    return [(what, "have consumers expect repeats, or keep messages for the duplicate window")]
