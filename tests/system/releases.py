"""Earlier releases of the relay, built from their commits and run beside this one."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.system.harness import ROOT

FIRST_SCHEMA: Final = "7744a65a9cee799a35cb896bc746391549a9cff6"
"""The first commit with migration 0001 as it is now, and with no other."""

_PYTHON: Final = (sys.executable, "-m")
_GIT: Final = ("git", "-C", str(ROOT))


def is_known(commit: str) -> bool:
    """Whether the commit is here: not in a shallow clone, nor outside of one."""
    if not (ROOT / ".git").exists():
        return False
    asked = [*_GIT, "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(asked, check=False, capture_output=True).returncode == 0


def installed(commit: str, folder: Path) -> Path:
    """Build the wheel of a commit, and unpack it below ``folder``; where its package is."""
    source, package = folder / "source", folder / "package"
    source.mkdir()
    archive = subprocess.run([*_GIT, "archive", commit], capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", str(source)], input=archive.stdout, check=True)
    build = [*_PYTHON, "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    install = [*_PYTHON, "pip", "install", "--quiet", "--no-index", "--no-deps", "--target"]
    subprocess.run([*install, str(package), str(wheel)], check=True)
    return package


def variables(package: Path) -> dict[str, str]:
    """With these Python takes the relay from ``package``, wherever it runs."""
    return {"PYTHONPATH": str(package), "PYTHONSAFEPATH": "1"}


def migrate(package: Path, dsn: str) -> None:
    """Make the schema of an earlier release."""
    command = [*_PYTHON, "relay", "migrate", "--postgres-dsn", dsn]
    environment = {"PATH": os.environ["PATH"], **variables(package)}
    subprocess.run(command, env=environment, check=True, capture_output=True)
