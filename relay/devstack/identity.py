"""As whom Postgres runs, since it refuses to run as root.

An ordinary user runs it as himself. Root has two ways, tried in this order; the first that can
reach both the programs and the data folder is taken:

    nobody     drop to that user; needs a path to the programs that everybody may walk
    copy       the same, with the programs copied into our own folder (38 MB, about 1 s): for a
               virtual environment under /root

Never a user namespace: what is called nobody in there is root outside, and whoever is superuser in
the database reads root's files by ``copy … from program``.
"""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from relay.devstack.errors import DevstackError

_REACH = 'cd "$1" && exec "$2" --version'


@dataclass(frozen=True, slots=True)
class Identity:
    """How to start a Postgres program.

    Attributes:
        bin_dir: where the programs are for this identity.
        user: the user id to drop to; None keeps ours.
        group: the group id to drop to; None keeps ours.
    """

    bin_dir: Path
    user: int | None = None
    group: int | None = None


def choose(bin_dir: Path, folder: Path, data: Path) -> Identity:
    """Choose the identity, and make ``data`` (which must be empty) its own.

    Args:
        bin_dir: the installation's programs.
        folder: our own temporary folder; if need be everybody may walk it, and it takes the copy.
        data: a folder in ``folder``.

    Raises:
        DevstackError: no way works on this machine.
    """
    if os.geteuid() != 0:
        return Identity(bin_dir)
    folder.chmod(0o711)
    for identity in _ladder(bin_dir, folder):
        os.chown(data, -1 if identity.user is None else identity.user, -1)
        if _reaches(identity, data):
            return identity
        os.chown(data, 0, -1)
    raise DevstackError(
        f"Postgres refuses to run as root, and the user nobody can't reach {bin_dir}, or a copy"
        f" of it, and {data}: run this as an ordinary user, or set TMPDIR to a folder that"
        f" everybody may enter"
    )


def _ladder(bin_dir: Path, folder: Path) -> Iterator[Identity]:
    nobody = pwd.getpwnam("nobody")
    yield Identity(bin_dir, nobody.pw_uid, nobody.pw_gid)
    yield Identity(copied(bin_dir, folder / "install"), nobody.pw_uid, nobody.pw_gid)


def copied(bin_dir: Path, target: Path) -> Path:
    """Copy an installation into the new folder ``target``; where its ``bin_dir`` is there.

    A wheel's programs find their libraries by a path that leads out of the package and into the
    ``<package>.libs`` beside it: both go, each in its place towards the other.
    """
    install = bin_dir.parent
    for package in install.parents:
        libs = package.with_name(f"{package.name}.libs")
        if package.name and libs.is_dir():
            shutil.copytree(libs, target / libs.name)
            place = target / install.relative_to(package.parent)
            break
    else:
        place = target / install.name
    shutil.copytree(install, place, symlinks=True)
    return place / bin_dir.name


def _reaches(identity: Identity, data: Path) -> bool:
    program = identity.bin_dir / "initdb"
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", _REACH, "sh", str(data), str(program)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd="/",
            timeout=30,
            check=False,
            user=identity.user,
            group=identity.group,
            extra_groups=None if identity.user is None else [],
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
