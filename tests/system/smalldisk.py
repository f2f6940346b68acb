"""A disk of a few MiB, so that a test can fill it: for a server that runs out of room.

It is a tmpfs of its own, since only a mount can be full for one server and for nobody else. Where
mounting is not allowed, the test is skipped and says why. The servers of ``relay.devstack`` made
within ``holds_temporary_folders`` live on it, with all they write; their logs are better moved off
it, or they can't say why they ended.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_CHUNK_BYTES = 1 << 20


class SmallDisk:
    """What ``small_disk`` mounts. ``folder`` is its root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    @property
    def free_bytes(self) -> int:
        state = os.statvfs(self.folder)
        return state.f_bavail * state.f_frsize

    def fill(self) -> None:
        """Leave no byte to anybody."""
        chunk = bytes(_CHUNK_BYTES)
        with self._ballast.open("ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(chunk)
            except OSError:
                assert self.free_bytes == 0

    def make_room(self) -> None:
        """Take the ballast away."""
        self._ballast.unlink()

    @contextmanager
    def holds_temporary_folders(self) -> Iterator[None]:
        """Let new temporary folders be made here."""
        before, tempfile.tempdir = tempfile.tempdir, str(self.folder)
        try:
            yield
        finally:
            tempfile.tempdir = before


@contextmanager
def small_disk(mib: int) -> Iterator[SmallDisk]:
    """Mount a disk of so many MiB; skip the test where that is not allowed."""
    folder = Path(tempfile.mkdtemp(prefix="relay-small-disk-"))
    try:
        # Everybody may walk through it: a Postgres of ours runs as somebody else if we are root.
        how = f"size={mib}m,mode=0711"
        mount = [shutil.which("mount") or "/bin/mount", "-t", "tmpfs", "-o", how, "tmpfs"]
        try:
            done = subprocess.run(
                [*mount, str(folder)], capture_output=True, text=True, check=False
            )
        except OSError as error:
            pytest.skip(f"no disk to fill, for nothing can be mounted here: {error}")
        if done.returncode:
            pytest.skip(f"no disk to fill, for nothing can be mounted here: {done.stderr.strip()}")
        try:
            yield SmallDisk(folder)
        finally:
            # Lazily: whoever still ends there must not fail the test.
            subprocess.run(["umount", "-l", str(folder)], check=True)
    finally:
        folder.rmdir()
