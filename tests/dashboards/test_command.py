"""`relay dashboards`, as its own process; and what a wheel brings along."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from relay import dashboards
from tests.cli.process import relay

ROOT = Path(__file__).parents[2]
NAMES = [
    "grafana-dashboard.json",
    "grafana-postgres.json",
    "prometheus-alerts.yaml",
    "prometheus.yaml",
    "otel-collector.yaml",
]


def test_it_makes_the_folder_and_writes_every_file_and_says_which(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    done = relay("dashboards", "--out", str(out))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"wrote {out / name}" for name in NAMES]
    assert {each.name: each.read_bytes() for each in out.iterdir()} == dashboards.shipped()
    assert json.loads((out / "grafana-dashboard.json").read_text())["uid"] == "relay-outbox"


def test_what_is_there_and_the_same_stays_as_it_is(tmp_path: Path) -> None:
    relay("dashboards", "--out", str(tmp_path))
    (tmp_path / "prometheus.yaml").unlink()
    before = {
        name: (tmp_path / name).stat().st_mtime_ns for name in NAMES if name != "prometheus.yaml"
    }
    done = relay("dashboards", "--out", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        *("unchanged", "unchanged", "unchanged", "wrote", "unchanged")
    ]
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in before} == before


def test_somebody_s_own_changes_are_overwritten_by_force_only(tmp_path: Path) -> None:
    (tmp_path / "prometheus-alerts.yaml").write_text("mine")
    done = relay("dashboards", "--out", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"relay: {tmp_path}/prometheus-alerts.yaml is there and is different\n"
        "relay: nothing was written: --force overwrites, or choose another --out\n"
    )
    assert [each.name for each in tmp_path.iterdir()] == ["prometheus-alerts.yaml"]
    assert (tmp_path / "prometheus-alerts.yaml").read_text() == "mine"
    assert relay("dashboards", "--out", str(tmp_path), "--force").returncode == 0
    content = (tmp_path / "prometheus-alerts.yaml").read_bytes()
    assert content == dashboards.shipped()[dashboards.ALERTS]


def test_a_folder_that_can_not_be_written_is_one_line_and_exit_1(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        done = relay("dashboards", "--out", str(out))
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1
        assert f"{tmp_path}/file" in done.stderr
        assert "Not a directory" in done.stderr


@pytest.mark.parametrize("args", [[], ["--out"], ["--nonsense"]])
def test_wrong_usage_exits_with_2(args: list[str]) -> None:
    assert relay("dashboards", *args).returncode == 2


def test_the_wheel_brings_the_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    command += ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path)]
    subprocess.run([*command, str(ROOT)], check=True, timeout=120, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        prefix = "relay/dashboards/files/"
        assert not [name for name in archive.namelist() if "grafana/" in name]
        brought = {
            name.removeprefix(prefix): archive.read(name)
            for name in archive.namelist()
            if name.startswith(prefix)
        }
    assert brought == dashboards.shipped()
