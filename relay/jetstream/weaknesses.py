"""What a stream's configuration puts at risk, for people: its owner decides what that is worth."""

from typing import NamedTuple

from relay.core import durations
from relay.jetstream.answers import Json

MIN_DUPLICATE_WINDOW_NS = 120_000_000_000
"""Two minutes: the server's default, and what a take-over with its retries needs."""


class Weakness(NamedTuple):
    """What a stream puts at risk, and what to do about it; ``topic`` is one word for sorting."""

    topic: str
    weak: str
    remedy: str


def weaknesses(config: Json, *, consumers: int, can_batch: bool) -> list[Weakness]:
    """List what a stream's configuration puts at risk."""
    retention = config.get("retention", "limits")
    window = config.get("duplicate_window", 0)
    evicting = _evicting(config)
    # What makes a restarted server forget message ids: it learns them from what is left.
    forgetting = [f"{retention} retention"] if retention in {"workqueue", "interest"} else []
    if (config.get("max_msgs_per_subject") or 0) > 0:
        forgetting.append("max_msgs_per_subject")
    risks = (
        (
            config.get("storage") == "memory",
            "storage",
            "memory storage: a restart loses it",
            "make it anew with file storage",
        ),
        (
            config.get("num_replicas", 1) < 2,  # noqa: PLR2004
            "replicas",
            "one replica: it is away with its server",
            "set num_replicas to 3 on a cluster",
        ),
        (
            config.get("persist_mode") == "async",
            "storage",
            "persist_mode async: a crash loses acknowledged messages",
            "use persist_mode default",
        ),
        (
            bool(evicting),
            "limits",
            f"limits that delete old messages ({evicting})",
            "set discard to new, or make sure that consumers are done by then",
        ),
        (
            window < MIN_DUPLICATE_WINDOW_NS,
            "window",
            f"a duplicate window of {window / 1e9:g} s: later repeats are stored again",
            "set duplicate_window to 2 minutes or more",
        ),
        (
            config.get("sealed"),
            "accepts",
            "it is sealed: it takes no message",
            "publish to another stream",
        ),
        (
            config.get("allow_msg_counter"),
            "accepts",
            "it counts (allow_msg_counter): it takes no event",
            "publish to another stream",
        ),
        (
            retention == "interest" and consumers == 0,
            "consumers",
            "interest retention without a consumer: acknowledged messages are not kept",
            "make the consumers first, or use limits retention",
        ),
        (
            retention == "workqueue" and consumers == 0,
            "consumers",
            "workqueue retention without a consumer",
            "make its consumer",
        ),
        (
            bool(forgetting),
            "window",
            f"{' and '.join(forgetting)}: after a server's restart a repeat may be stored again",
            "have consumers expect repeats, or keep messages for the duplicate window",
        ),
        (
            can_batch and not config.get("allow_batched"),
            "path",
            "allow_batched is off",
            "set allow_batched for the fast ingest path",
        ),
    )
    return [Weakness(topic, weak, remedy) for is_so, topic, weak, remedy in risks if is_so]


def _evicting(config: Json) -> str:
    """Name the limits that delete messages which nobody has consumed yet; "" if none does."""
    names = ("max_msgs", "max_bytes", "max_age", "max_msgs_per_subject")
    limits = {name: config[name] for name in names if (config.get(name) or 0) > 0}
    if config.get("discard") == "new":
        limits = {name: limit for name, limit in limits.items() if name == "max_age"}
    elif config.get("discard", "old") != "old" and "max_age" not in limits:
        return ""
    if "max_age" in limits:  # in ns
        limits["max_age"] = durations.format(min(limits["max_age"] / 1e9, durations.LONGEST))
    return ", ".join(f"{name} {limit}" for name, limit in limits.items())
