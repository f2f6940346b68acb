"""Where settings come from: flags, environment, TOML file; gathered in their order of precedence.

Nothing is judged here but whether a source can be read, and whether a name is one of ours: a
variable RELAY_… that is no setting is a fault, for it was meant to be one. A secret can also come
from a file, by RELAY_…_FILE or a key …_file; both at once are a fault.

Every value keeps its origin, so that a fault can say which of the sources to mend. An empty
environment variable counts as not set, for that is what ``RELAY_NATS_TOKEN=${TOKEN:-}`` means.
"""

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from relay.settings.described import CONFIG, FILE, PREFIX, Described, flag, variable
from relay.settings.faults import Fault, alike, shown
from relay.settings.files import read_secret, reason
from relay.settings.kinds import at_home

DATABASE: Final = "postgres_dsn"
"""The one secret that every command needs."""

_OF_OTHERS: Final = ("RELAY_FAILPOINTS", "RELAY_PG_BIN", "RELAY_NATS_SERVER")
"""Read elsewhere: failpoints, and the programs of throw-away servers."""

_OF_TESTS: Final = "RELAY_TEST_"

# What Kubernetes sets for a service whose name is relay, or begins with it.
_SERVICE: Final = re.compile(r"RELAY_(?:[A-Z0-9_]+_)?SERVICE_(?:HOST|PORT(?:_[A-Z0-9_]+)?)")
_PORTS: Final = re.compile(
    r"RELAY_(?:[A-Z0-9_]+_)?PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?"
)
_PORT: Final = re.compile(r"RELAY_(?:[A-Z0-9_]+_)?PORT=(?:tcp|udp|sctp)://.*")


@dataclass(slots=True)
class Gathered:
    """What was found.

    Attributes:
        values: the winning value of each name that any source has, unknown TOML keys among them.
        origins: where each of the values came from, for a person.
        faults: whole lines about sources that can't be read.
        secret_files: where secrets were read from, by name.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    secret_files: dict[str, Path] = field(default_factory=dict)

    def offer(self, name: str, value: object, origin: str) -> None:
        """Take ``value`` unless a source of higher precedence had one."""
        if name not in self.values:
            self.values[name] = value
            self.origins[name] = origin

    def origin(self, name: str) -> str:
        """Say where the value in force came from."""
        return self.origins.get(name, "default")


def gather(
    settings: Collection[Described],
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    all_files: bool = True,
) -> Gathered:
    """Read all sources.

    Args:
        settings: all that there are, without ``config``.
        flags: by public name; None means not given.
        environ: the environment.
        all_files: that a file of a secret can't be read is a fault, whatever the secret is for.
    """
    gathered = Gathered()
    names = [setting.name for setting in settings]
    secret = [setting.name for setting in settings if setting.secret]
    timed = [setting.name for setting in settings if setting.timed]
    for name, value in flags.items():
        if name != CONFIG and value is not None:
            gathered.offer(name, value, f"flag {flag(name)}")
    for name in names:
        text = environ.get(variable(name))
        if text:
            gathered.offer(name, text, f"environment {variable(name)}")
        file = environ.get(variable(name + FILE)) if name in secret else None
        if file and text:
            says = f"is set beside {variable(name)}: keep one of the two"
            gathered.faults.append(Fault(variable(name + FILE), says).line("environment"))
        elif file:
            origin = f"environment {variable(name + FILE)}"
            _offer_secret(gathered, name, file, origin, must=all_files or name == DATABASE)
    _read_file(gathered, timed, secret, flags, environ)
    gathered.faults += strangers(environ, [*names, CONFIG], secret)
    return gathered


def _offer_secret(
    gathered: Gathered, name: str, file: object, origin: str, *, must: bool = True
) -> None:
    """Take the secret that a file holds, unless a source of higher precedence had one."""
    if name in gathered.values:
        return
    try:
        path = at_home(Path(str(file)))
        secret = read_secret(path)
    except (OSError, ValueError) as error:
        if must:
            says = f"names a file that can't be read: {reason(error)}"
            gathered.faults.append(Fault(name + FILE, says, shown(str(file))).line(origin))
        return
    gathered.offer(name, secret, f"{origin}, file {path}")
    gathered.secret_files[name] = path


def _read_file(
    gathered: Gathered,
    timed: Collection[str],
    secret: Collection[str],
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
        _take(gathered, found, path, timed, secret)
        gathered.origins[CONFIG] = origin
        return
    gathered.faults.append(Fault(CONFIG, says, repr(str(path))).line(origin))


def _take(
    gathered: Gathered,
    found: dict[str, Any],
    path: Path,
    timed: Collection[str],
    secret: Collection[str],
) -> None:
    """Offer what the TOML file has."""
    if any(name in found for name in secret):
        gathered.secret_files[CONFIG] = path
    of_files = {name: found.pop(name + FILE) for name in secret if name + FILE in found}
    for name, file in of_files.items():
        origin = f"file {path}, key {name + FILE}"
        if name in found:
            says = f"is set beside {name}: keep one of the two"
            gathered.faults.append(Fault(name + FILE, says).line(origin))
        else:
            _offer_secret(gathered, name, file, origin)
    for key, value in found.items():
        # A bare number would pass for seconds, as it may in Python; in a file nobody sees that.
        number = key in timed and isinstance(value, int | float) and not isinstance(value, bool)
        gathered.offer(key, str(value) if number else value, f"file {path}, key {key}")


def strangers(
    environ: Mapping[str, str], names: Collection[str], secret: Collection[str]
) -> list[str]:
    """Say which variables of the environment look like settings, and are none."""
    known = [*names, *(name + FILE for name in secret)]
    ours = {variable(name) for name in known}
    found = []
    for key in sorted(environ):
        if not key.startswith(PREFIX) or key in ours or _is_anothers(key, environ[key]):
            continue
        near = alike(key.removeprefix(PREFIX).lower(), known)
        says = f"did you mean {variable(near)}?" if near else "take it out"
        says = f"is no setting: {says}"
        found.append(Fault(key, says).line("environment"))
    return found


def _is_anothers(key: str, value: str) -> bool:
    if key.startswith(_OF_TESTS) or key in _OF_OTHERS:
        return True
    of_kubernetes = (_SERVICE.fullmatch(key), _PORTS.fullmatch(key), _PORT.match(f"{key}={value}"))
    return any(of_kubernetes)
