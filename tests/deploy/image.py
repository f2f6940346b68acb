"""The Containerfile without a container runtime: its steps in a mount namespace of our own.

A new root is a tmpfs that shows the machine's folders read-only; the Containerfile's own folders
are bound into it; its RUN lines and its entrypoint run there as its USER, with its ENV. What that
leaves out: the base image (the machine's Python stands for it), and layers.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE = ROOT / "relay/deploy/Containerfile"

ENTER = r"""
set -eu
root=$1 user=$2 where=$3 binds=$4; shift 4
mount -t tmpfs none "$root"
for entry in /*; do
  name=${entry#/}
  case $name in tmp | root | home | app | src) continue ;; esac
  if [ -L "$entry" ]; then cp -P "$entry" "$root/"
  elif [ -d "$entry" ]; then
    mkdir "$root/$name"
    mount --rbind "$entry" "$root/$name"
    mount -o remount,bind,ro "$root/$name"
  fi
done
for bind in $binds; do
  IFS=: read -r from to mode <<< "$bind"
  mkdir -p "$root$to"
  mount --bind "$from" "$root$to"
  mount -o "remount,bind,$mode" "$root$to"
done
mkdir "$root/tmp"
mount -t tmpfs -o mode=1777 none "$root/tmp"
mount -o remount,bind,ro "$root"
exec chroot "$root" setpriv --reuid "${user%:*}" --regid "${user#*:}" --clear-groups \
  --no-new-privs --bounding-set=-all sh -c 'cd "$0" && exec "$@"' "$where" "$@"
"""


@dataclass
class Stage:
    """What one FROM builds: its instructions, as they stand at its end."""

    name: str
    user: str = "0:0"
    workdir: str = "/"
    env: dict[str, str] = field(default_factory=dict)
    copies: list[list[str]] = field(default_factory=list)
    runs: list[tuple[str, str]] = field(default_factory=list)
    """The user, and the line that it runs."""
    last: dict[str, str] = field(default_factory=dict)
    """ENTRYPOINT, CMD, EXPOSE."""


def stages() -> list[Stage]:
    """Read the Containerfile; an instruction that this reader does not know is a fault."""
    found: list[Stage] = []
    text = re.sub(r"^#.*\n", "", FILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for line in filter(None, text.replace("\\\n", "").splitlines()):
        word, rest = line.split(maxsplit=1)
        match word:
            case "ARG":
                continue
            case "FROM":
                found.append(Stage(rest.rpartition(" AS ")[2]))
            case "RUN":
                found[-1].runs.append((found[-1].user, rest))
            case "COPY":
                found[-1].copies.append(rest.split())
            case "ENV":
                found[-1].env |= dict(pair.split("=", 1) for pair in shlex.split(rest))
            case "USER":
                found[-1].user = rest
            case "WORKDIR":
                found[-1].workdir = rest
            case "ENTRYPOINT" | "CMD" | "EXPOSE":
                found[-1].last[word] = rest
            case _:
                raise AssertionError(f"the reader of the Containerfile does not know {line}")
    return found


def copied(stage: Stage, to: Path) -> None:
    """Carry out what the stage copies out of the repository; ``to`` is its /src."""
    for *sources, target in stage.copies:
        for source in sources:
            place = to / target.removeprefix("/src").strip("/")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)


def inside(
    stage: Stage, command: Sequence[str], folder: Path, binds: Mapping[str, str]
) -> list[str]:
    """Return the command that runs ``command`` as this stage's user, in this stage's environment.

    ``binds`` maps a folder of the new root to a folder of the machine and a mode, ``:ro`` or
    ``:rw``.
    """
    root = folder / "root"
    root.mkdir(exist_ok=True)
    machine = {name: text for name, text in os.environ.items() if name.startswith("PIP_")}
    path = f"/programs:{sys.base_prefix}/bin:/usr/bin:/bin"
    env = {name: text.replace("$PATH", path) for name, text in stage.env.items()}
    variables = [f"{name}={text}" for name, text in ({"PATH": path} | machine | env).items()]
    binds = {sys.base_prefix: f"{sys.base_prefix}:ro", "/programs": _programs(folder), **binds}
    mounts = " ".join(
        f"{source}:{target}:{mode}"
        for target, (source, _, mode) in ((to, at.rpartition(":")) for to, at in binds.items())
    )
    enter = ["unshare", "--mount", "bash", "-c", ENTER, "bash", str(root), stage.user]
    return [*enter, stage.workdir, mounts, "env", "-i", *variables, *command]


def _programs(folder: Path) -> str:
    """Make the program ``python``, which the base image has and Debian has not; its bind.

    A script, not a link: a venv that is made through a link takes the link's folder for its home.
    """
    base = sys._base_executable  # type: ignore[attr-defined]  # the interpreter behind our venv
    (folder / "programs").mkdir(exist_ok=True)
    python = folder / "programs/python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(base)} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    return f"{folder}/programs:ro"


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the first stage's lines; what it installs is in ``folder/app`` afterwards."""
    stage = stages()[0]
    for name in ("app", "src"):
        (folder / name).mkdir()
    os.chown(folder / "app", *(int(each) for each in stage.user.split(":")))
    copied(stage, folder / "src")
    (line,) = [run for user, run in stage.runs if user == stage.user]
    binds = {"/app": f"{folder}/app:rw", "/src": f"{folder}/src:ro"}
    return subprocess.run(
        inside(stage, ["sh", "-c", line], folder, binds),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
