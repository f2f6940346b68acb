"""Grafana's own model of a dashboard, as its foundation SDK has it, as a strict reader.

The SDK takes anything and drops what it does not know; so what was dropped is looked for after a
round trip, and every value is held against the type that the model declares for it.
"""

import enum
import json
import types
import typing
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

UNITS = {value for name, value in vars(units).items() if isinstance(value, str) and name[0] != "_"}


def faults(board: dict[str, Any]) -> list[str]:
    """The paths of what Grafana's model drops, changes, or declares to be something else."""
    register_default_plugins()
    read = Dashboard.from_json(json.loads(json.dumps(board)))
    return _lost(board, json.loads(json.dumps(read, cls=JSONEncoder)), "") + _misfits(read, "")


def _lost(ours: Any, theirs: Any, path: str) -> list[str]:
    """The paths of what is in ours and not, or other, in theirs, which may have more."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = []
        for key, value in ours.items():
            below = f"{path}.{key}".lstrip(".")
            found += _lost(value, theirs[key], below) if key in theirs else [below]
        return found
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [each for n, (a, b) in pairs for each in _lost(a, b, f"{path}[{n}]")]
    return [] if ours == theirs else [path]


def _misfits(read: object, path: str) -> list[str]:
    """The paths of what does not fit its declared type, below an object of the model."""
    found = []
    for name, hint in typing.get_type_hints(type(read)).items():
        value, below = getattr(read, name), f"{path}.{name}".lstrip(".")
        if not _fits(value, hint):
            found.append(f"{below} = {value!r}")
        items = value if isinstance(value, list) else [value]
        found += [each for item in items if _of_model(item) for each in _misfits(item, below)]
    return found


def _fits(value: object, hint: Any) -> bool:
    origin, given = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in given)
    if origin is typing.Literal:
        return value in given
    if origin is list:
        return isinstance(value, list) and all(_fits(each, given[0]) for each in value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return value in {member.value for member in hint} | set(hint)
    kind = (int, float) if hint is float else origin or hint
    return kind is Any or isinstance(value, kind)


def _of_model(item: object) -> bool:
    return type(item).__module__.startswith("grafana_foundation_sdk.models")
