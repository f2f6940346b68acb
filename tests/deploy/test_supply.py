"""The wheel is the same whoever builds it, and typed; what it brings along is listed."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections import defaultdict
from pathlib import Path

import pytest

from tests.deploy import image, supply
from tests.deploy.supply import ROOT

IN_A_BUILD = ("relay", "sql", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md")

CONSUMER = """\
from typing import assert_type

import psycopg

from relay import Relay, Settings
from relay.consumer import Consumer, Message
from relay.errors import RelayError, SettingsError
from relay.memory import MemoryOutbox
from relay.producer.psycopg import emit

settings = Settings.load()
assert_type(settings, Settings)
relay = Relay(settings)
assert_type(relay, Relay)
assert_type(relay.metrics()["undelivered"], int)


async def main() -> None:
    try:
        await relay.run()
    except SettingsError as error:
        assert_type(error.exit_code, int)
        raise RelayError(str(error)) from error


async def handle(message: Message) -> None:
    assert_type(message.subject, str)


def order(connection: psycopg.Connection) -> None:
    emit(connection, "orders.placed", {"order": 7}, key="order-7")
    emit(connection)  # type: ignore[call-arg]


Relay("dsn")  # type: ignore[arg-type]
relay.halt()  # type: ignore[attr-defined]
Consumer(1)  # type: ignore[arg-type, call-arg]
MemoryOutbox().nothing  # type: ignore[attr-defined]
"""


def build(source: Path, out: Path, kind: str = "wheel") -> Path:
    """Build a wheel or an sdist, as any front end does, and return its path."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=60)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


def test_a_wheel_is_the_same_bytes_from_another_copy_at_another_time(
    wheel: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    umask = os.umask(0o077)
    try:
        for name in reversed(IN_A_BUILD):
            source = ROOT / name
            ignored = shutil.ignore_patterns("__pycache__")
            if source.is_dir():
                shutil.copytree(source, copy / name, copy_function=shutil.copyfile, ignore=ignored)
            else:
                shutil.copyfile(source, copy / name)
        assert build(copy, tmp_path / "out").read_bytes() == wheel.read_bytes()
    finally:
        os.umask(umask)


@pytest.mark.slow
def test_a_wheel_made_of_the_sdist_is_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    sdist = build(ROOT, tmp_path / "sdist", "sdist")
    with tarfile.open(sdist) as archive:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # not in 3.11.2
        archive.extractall(tmp_path / "from", **safely)
    (source,) = (tmp_path / "from").iterdir()
    assert build(source, tmp_path / "out").read_bytes() == wheel.read_bytes()
    assert (source / "relay/deploy/chart/templates/deployment.yaml").exists()
    wanted = [name for *names, _ in image.stages()[0].copies for name in names]
    assert [name for name in wanted if not (source / name).exists()] == []


def test_the_wheel_has_types_and_sql_and_nothing_for_deployers(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "relay/py.typed" in names
    assert "relay/sql/roles.sql" in names
    assert not [name for name in names if name.startswith(("relay/deploy", "tests", "bench"))]


@pytest.mark.slow
def test_a_strict_user_s_own_code_type_checks_against_the_wheel(
    wheel: Path, tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    (packages,) = tmp_path.glob("venv/lib/*/site-packages")
    (dependencies,) = {path for path in sys.path if path.endswith("site-packages")}
    (packages / "dependencies.pth").write_text(dependencies)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (tmp_path / "consumer.py").write_text(CONSUMER)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir=cache"]
    command += ["--python-executable", str(tmp_path / "venv/bin/python"), "consumer.py"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_bill_of_materials_has_every_pin_and_every_licence_is_listed() -> None:
    made = supply.bill()
    found = {supply.canonicalize_name(each["name"]): each for each in made["components"]}
    assert {name: each["version"] for name, each in found.items()} == supply.pins()
    assert all(each["purl"].startswith("pkg:pypi/") for each in found.values())
    listed = defaultdict(set)
    for name, each in found.items():
        listed[supply.licence(each)].add(name)
    readme = (ROOT / "relay/deploy/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w. -]+) \| `(.*)` \|$", readme, re.MULTILINE)
    assert {licence: set(names.split("` `")) for licence, names in rows} == listed
