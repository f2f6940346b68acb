"""Where settings come from: flags, environment, TOML file; gathered in their order of precedence.

Nothing is judged here but whether a source can be read. Every value keeps its origin, so that a
fault can say which of the sources to mend. An empty environment variable counts as not set, for
that is what ``RELAY_NATS_TOKEN=${TOKEN:-}`` means.
"""

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relay.settings.described import CONFIG, PREFIX, Described, flag, variable
from relay.settings.faults import Fault, alike
from relay.settings.kinds import at_home


@dataclass(slots=True)
class Gathered:
    """What was found.

    Attributes:
        values: the winning value of each name that any source has, unknown TOML keys among them.
        origins: where each of the values came from, for a person.
        faults: whole lines about sources that can't be read.
        warnings: whole lines about what was probably meant otherwise.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def offer(self, name: str, value: object, origin: str) -> None:
        """Take ``value`` unless a source of higher precedence had one."""
        if name not in self.values:
            self.values[name] = value
            self.origins[name] = origin

    def origin(self, name: str) -> str:
        """Say where the value in force came from."""
        return self.origins.get(name, "default")


def gather(
    settings: Collection[Described], flags: Mapping[str, object], environ: Mapping[str, str]
) -> Gathered:
    """Read all sources.

    Args:
        settings: all that there are, without ``config``.
        flags: by public name; None means not given.
        environ: the environment.
    """
    gathered = Gathered()
    names = [setting.name for setting in settings]
    timed = [setting.name for setting in settings if setting.timed]
    for name, value in flags.items():
        if name != CONFIG and value is not None:
            gathered.offer(name, value, f"flag {flag(name)}")
    for name in names:
        if text := environ.get(variable(name)):
            gathered.offer(name, text, f"environment {variable(name)}")
    _read_file(gathered, timed, flags, environ)
    _warn_of_near_misses(gathered, [*names, CONFIG], environ)
    return gathered


def _read_file(
    gathered: Gathered,
    timed: Collection[str],
    flags: Mapping[str, object],
    environ: Mapping[str, str],
) -> None:
    given, origin = flags.get(CONFIG), f"flag {flag(CONFIG)}"
    if given is None:
        given, origin = environ.get(variable(CONFIG)), f"environment {variable(CONFIG)}"
    if not given:
        return
    path = Path(str(given))
    try:
        path = at_home(path)
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        says = f"names a file that can't be read: {error.strerror or type(error).__name__}"
    except UnicodeDecodeError:
        says = "names a file that is not UTF-8 text: save it as UTF-8"
    except tomllib.TOMLDecodeError as error:
        says = f"names a file that is not valid TOML: {error}"
    except ValueError as error:
        says = str(error)
    else:
        for key, value in found.items():
            # A bare number would pass for seconds, as it may in Python; in a file nobody sees that.
            number = key in timed and isinstance(value, int | float) and not isinstance(value, bool)
            gathered.offer(key, str(value) if number else value, f"file {path}, key {key}")
        return
    gathered.faults.append(Fault(CONFIG, says, repr(str(path))).line(origin))


def _warn_of_near_misses(
    gathered: Gathered, names: Collection[str], environ: Mapping[str, str]
) -> None:
    # Others are no fault: Kubernetes sets RELAY_SERVICE_HOST for a service of this name.
    for key in sorted(environ):
        name = key.removeprefix(PREFIX).lower()
        if not key.startswith(PREFIX) or name in names:
            continue
        if near := alike(name, names):
            gathered.warnings.append(f"{key} is no setting and ignored: {variable(near)} is one")
