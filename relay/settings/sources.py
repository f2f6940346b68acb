"""Where settings come from: flags, environment, TOML file; gathered in their order of precedence.

Nothing is judged here but whether a file can be read, and whether a variable RELAY_… is a setting:
one that is none was meant to be one, and is a fault. A secret can also come from a file, by
RELAY_…_FILE or a key …_file; both at once are a fault.

Every value keeps its origin, so that a fault can say which of the sources to mend. An empty
environment variable counts as not set, for that is what ``RELAY_NATS_TOKEN=${TOKEN:-}`` means.
"""

import errno
import os
import re
import stat
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from relay.settings.faults import Fault, alike, shown
from relay.settings.kinds import at_home

PREFIX: Final = "RELAY_"
CONFIG: Final = "config"
"""The one setting that only says where others are."""

_FILE: Final = "_file"
"""Behind a secret's name: the file that holds it, in the environment or the TOML file."""

_NAMED_FILES: Final = (
    "nats_creds",
    "nats_tls_ca",
    "nats_tls_cert",
    "nats_tls_key",
    "nats_nkey_seed",
)
_SEED: Final = re.compile(r"S[A-Z2-7]{57}")
_MOST_SECRET_BYTES: Final = 65_536

_OTHER_VARIABLES: Final = re.compile(
    r"RELAY_(?:FAILPOINTS|PG_BIN|NATS_SERVER|TEST_\w*)=.*"
    # What Kubernetes sets for a service whose name is relay, or begins with it.
    r"|RELAY_(?:[A-Z0-9_]+_)?(?:SERVICE_(?:HOST|PORT(?:_[A-Z0-9_]+)?)=.*"
    r"|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?=.*"
    r"|PORT=(?:tcp|udp|sctp)://.*)",
    re.DOTALL,
)


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def flag(name: str) -> str:
    """Return a setting's flag."""
    return f"--{name.replace('_', '-')}"


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

    def offer_secret(self, name: str, file: object, origin: str, *, must: bool) -> None:
        """Take the secret that ``file`` holds; ``must``: that it can't be read is a fault."""
        if name in self.values:
            return
        try:
            path = at_home(Path(str(file)))
            self.offer(name, _read_secret(path), f"{origin}, file {path}")
            self.secret_files[name] = path
        except (OSError, ValueError) as error:
            if must:
                says = f"names a file that can't be read: {_reason(error)}"
                self.faults.append(Fault(name + _FILE, says, shown(str(file))).line(origin))

    def origin(self, name: str) -> str:
        """Say where the value in force came from."""
        return self.origins.get(name, "default")

    def warnings(self) -> Iterator[str]:
        """Say which files with secrets every user of this machine can read."""
        for name, file in self.secret_files.items():
            try:
                mode = file.stat().st_mode
            except (OSError, ValueError):
                continue
            if stat.S_ISREG(mode) and mode & stat.S_IROTH:
                everybody = f"every user of this machine can read {str(file)!r}: chmod o-r"
                yield f"{name} ({self.origin(name)}): {everybody}"

    def lasting_files(self) -> dict[str, Path]:
        """Return the secrets' files that can be read again: /dev/fd/63 and the like can't."""
        return {name: file for name, file in self.secret_files.items() if file.is_file()}

    def unreadable(self) -> Iterator[Fault]:
        """Find the credentials and certificates that can't be read."""
        for name in _NAMED_FILES:
            text = str(self.values.get(name) or "")
            is_seed = name == "nats_nkey_seed"
            if not text or (is_seed and _SEED.fullmatch(text.strip())):
                continue
            try:
                _look_at(Path(text).expanduser())
            except (OSError, ValueError, RuntimeError) as error:
                says = f"is a file that can't be read: {_reason(error)}"
                # What is meant as a seed may have a typing error in it: it is not shown.
                yield Fault(name, says, None if is_seed else shown(text))


def conninfo(dsn: SecretStr | None, password: SecretStr | None, files: Mapping[str, Path]) -> str:
    """Put ``password`` into ``dsn``; one that came from a file as ``passfile`` that names it.

    The adapter of Postgres reads ``password:PATH`` and ``dsn:PATH`` anew at each connect.
    """
    text = dsn.get_secret_value() if dsn else ""
    name, form = ("postgres_password", "password") if password else ("postgres_dsn", "dsn")
    if password is None and name not in files:
        return text
    import psycopg.conninfo  # noqa: PLC0415 - dear to load, and many commands end before

    try:
        own = (
            password.get_secret_value()
            if password
            else psycopg.conninfo.conninfo_to_dict(text)["password"]
        )
        passfile = f"{form}:{files[name]}" if name in files else None
        return psycopg.conninfo.make_conninfo(text, password=own, passfile=passfile)
    except (KeyError, psycopg.ProgrammingError):
        return text  # without a password, or whoever connects says what is wrong with it


def gather(
    names: Collection[str],
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    secrets: Collection[str] = (),
    timed: Collection[str] = (),
    required: Collection[str] = (),
) -> Gathered:
    """Read all sources.

    Args:
        names: of all settings, without ``config``.
        flags: by public name; None means not given.
        environ: the environment.
        secrets: those of ``names`` that can come from a file.
        timed: those of ``names`` that are durations.
        required: those of ``secrets`` whose file in the environment has to be readable.
    """
    gathered = Gathered()
    for name, value in flags.items():
        if name != CONFIG and value is not None:
            gathered.offer(name, value, f"flag {flag(name)}")
    files = {name + _FILE: name for name in secrets}
    for name in (*names, *files):
        value, origin = environ.get(variable(name)), f"environment {variable(name)}"
        if not value:
            continue
        secret = files.get(name)
        if secret is None:
            gathered.offer(name, value, origin)
        elif environ.get(variable(secret)):
            fault = Fault(variable(name), _beside(variable(secret)))
            gathered.faults.append(fault.line("environment"))
        else:
            gathered.offer_secret(secret, value, origin, must=secret in required)
    _offer_toml(gathered, flags, environ, files, timed)
    gathered.faults += _unknown_variables(environ, [*names, CONFIG, *files])
    return gathered


def _beside(name: str) -> str:
    return f"is set beside {name}: keep one of the two"


def _offer_toml(
    gathered: Gathered,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    files: Mapping[str, str],
    timed: Collection[str],
) -> None:
    given, named_by = flags.get(CONFIG), f"flag {flag(CONFIG)}"
    if given is None:
        given, named_by = environ.get(variable(CONFIG)), f"environment {variable(CONFIG)}"
    if not given:
        return
    gathered.origins[CONFIG] = named_by
    path, content = Path(str(given)), dict[str, Any]()
    try:
        path = at_home(path)
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fault = Fault(CONFIG, _why_no_toml(error), repr(str(path)))
        gathered.faults.append(fault.line(named_by))
    for name, value in content.items():
        origin = f"file {path}, key {name}"
        secret = files.get(name)
        if secret is None:
            # A bare number would pass for seconds, as it may in Python; here nobody sees the unit.
            bare = name in timed and isinstance(value, int | float) and not isinstance(value, bool)
            gathered.offer(name, str(value) if bare else value, origin)
        elif secret in content:
            gathered.faults.append(Fault(name, _beside(secret)).line(origin))
        else:
            gathered.offer_secret(secret, value, origin, must=True)
    if not content.keys().isdisjoint(files.values()):
        gathered.secret_files[CONFIG] = path


def _why_no_toml(error: Exception) -> str:
    match error:
        case OSError():
            return f"names a file that can't be read: {_reason(error)}"
        case UnicodeDecodeError():
            return "names a file that is not UTF-8 text: save it as UTF-8"
        case tomllib.TOMLDecodeError():
            return f"names a file that is not valid TOML: {error}"
        case _:
            return str(error)


def _unknown_variables(environ: Mapping[str, str], names: Collection[str]) -> Iterator[str]:
    """Say which variables of the environment look like settings, and are none."""
    variables = {variable(name) for name in names}
    for key in sorted(key for key in environ if key.startswith(PREFIX)):
        if key not in variables and not _OTHER_VARIABLES.fullmatch(f"{key}={environ[key]}"):
            near = alike(key.removeprefix(PREFIX).lower(), names)
            remedy = f"did you mean {variable(near)}?" if near else "take it out"
            yield Fault(key, f"is no setting: {remedy}").line("environment")


def _read_secret(path: Path) -> str:
    """Read a secret, which is text and not long; else raise OSError or ValueError."""
    with path.open("rb") as file:
        content = file.read(_MOST_SECRET_BYTES + 1)
    if len(content) > _MOST_SECRET_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return content.decode()


def _look_at(path: Path) -> None:
    # Not opened: what is read once, such as /dev/fd/63, must be left for its reader.
    if stat.S_ISDIR(path.stat().st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _reason(error: Exception) -> str:
    """Say why a file can't be read, without its content or its path."""
    return getattr(error, "strerror", None) or type(error).__name__
