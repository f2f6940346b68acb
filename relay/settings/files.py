"""The files that settings name: whether they can be read, and by whom else."""

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from relay.settings.faults import Fault, shown

_SEED: Final = re.compile(r"S[A-Z2-7]{57}")
_FILES: Final = ("nats_creds", "nats_tls_ca", "nats_tls_cert", "nats_tls_key", "nats_nkey_seed")

MOST_SECRET_BYTES: Final = 65_536


def unreadable(values: Mapping[str, object]) -> Iterator[Fault]:
    """Find the files that can't be read."""
    for name in _FILES:
        text = str(values.get(name) or "")
        if not text or (name == "nats_nkey_seed" and _SEED.fullmatch(text.strip())):
            continue
        try:
            _look_at(Path(text).expanduser())
        except (OSError, ValueError, RuntimeError) as error:
            # Not the value of nats_nkey_seed: it may be a seed with a slip of the pen in it.
            value = None if name == "nats_nkey_seed" else shown(text)
            yield Fault(name, f"is a file that can't be read: {reason(error)}", value)


def open_to_all(secret_files: Mapping[str, Path], origin: Callable[[str], str]) -> Iterator[str]:
    """Say which files every user of this machine can read, of those that secrets were read from.

    Args:
        secret_files: by the public name of what was read.
        origin: says where a value came from.
    """
    for name, file in secret_files.items():
        try:
            mode = file.stat().st_mode
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(mode) and mode & stat.S_IROTH:
            yield (
                f"{name} ({origin(name)}): every user of this machine can read {str(file)!r}:"
                " chmod o-r"
            )


def read_secret(path: Path) -> str:
    """Read the secret that a file holds.

    Raises:
        OSError, ValueError: it can't be read, is no text, or too long for a secret.
    """
    with path.open("rb") as file:
        content = file.read(MOST_SECRET_BYTES + 1)
    if len(content) > MOST_SECRET_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return content.decode()


def reason(error: Exception) -> str:
    """Say why a file can't be read, without its content or its path."""
    return getattr(error, "strerror", None) or type(error).__name__


def _look_at(path: Path) -> None:
    # Not opened: what is read once, such as /dev/fd/63, must be left for who uses it.
    if stat.S_ISDIR(path.stat().st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
