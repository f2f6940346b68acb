"""``relay doctor``: its exit codes, its JSON, its deadline, and the README's table of checks."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relay.doctor import SIDES
from tests.cli.process import migrated, relay
from tests.postgres.test_connecting import silent_host

CANARY = "c4n4ry-in-the-mine"
README = Path(__file__).parents[2] / "relay" / "doctor" / "README.md"


def test_the_table_of_checks_is_the_code_s_own() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+?) \| (.*?) \|$", README.read_text(), re.MULTILINE)
    assert rows == [
        (check.name, check.looks_at, " ".join(f"`{need}`" for need in check.needs))
        for checks in SIDES.values()
        for check in checks
    ]


def test_every_check_has_a_name_of_its_own_and_builds_on_earlier_ones() -> None:
    seen: set[str] = set()
    for checks in SIDES.values():
        for check in checks:
            assert check.name not in seen
            assert seen.issuperset(check.needs)
            seen.add(check.name)


def test_a_fault_exits_with_1_and_json_says_the_same(database, nats_server):
    args = ("doctor", "--nats-url", nats_server.url)
    done = relay(*args, RELAY_POSTGRES_DSN=database)
    assert (done.returncode, done.stderr) == (1, "")
    assert re.search(r"^  fault    schema +there is no schema", done.stdout, re.MULTILINE)
    assert "→ python -m relay migrate" in done.stdout
    report = json.loads(relay(*args, "--json", RELAY_POSTGRES_DSN=database).stdout)
    (fault,) = (
        each for each in report["checks"] if each["state"] == "fault" and each["side"] == "postgres"
    )
    assert fault["check"] == "schema"
    assert report["skipped"] > 10


def test_without_a_fault_it_exits_with_0(database, nats_server):
    migrated(database)
    stream = ("--stream", "DOCTOR", "--stream-subjects", "doctor.>", "--stream-create")
    done = relay(*("doctor", "--nats-url", nats_server.url, *stream), RELAY_POSTGRES_DSN=database)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "postgres"
    assert done.stdout.splitlines()[-1].startswith("0 faults, ")


def test_settings_that_can_t_be_used_exit_with_2_and_are_named():
    done = relay("doctor", RELAY_POSTGRES_DSN="nonsense", RELAY_LOG_FORMAT="text")
    assert done.returncode == 2
    assert "is no connection string" in done.stderr


@pytest.mark.parametrize("command", ["migrate", "status", "doctor", "run"])
def test_a_dsn_with_a_bad_port_exits_with_2_but_is_a_fault_to_the_doctor(command):
    args = ("--nats-url", "nats://127.0.0.1:1") if command != "migrate" else ()
    off = ("--http", "off") if command == "run" else ()
    dsn = f"postgresql://u:{CANARY}@127.0.0.1:99999/d"
    login = {"RELAY_NATS_USER": "u", "RELAY_NATS_PASSWORD": CANARY, "RELAY_LOG_LEVEL": "debug"}
    done = relay(command, *args, *off, RELAY_POSTGRES_DSN=dsn, **login)
    assert done.returncode == (1 if command == "doctor" else 2)
    assert "99999" in done.stdout + done.stderr
    assert CANARY not in done.stdout + done.stderr


def test_a_reader_that_goes_away_is_no_bug():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "relay", "doctor", "--nats-url", "nats://127.0.0.1:1"]
    with os.fdopen(writing, "wb") as output:
        kept = {**os.environ, "RELAY_POSTGRES_DSN": "host=127.0.0.1 port=1"}
        done = subprocess.run(
            command, env=kept, stdout=output, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.slow
def test_both_servers_hung_take_no_longer_than_15_s():
    """R-BOUND."""
    with silent_host() as port:
        dsn = f"host=127.0.0.1,127.0.0.1 port={port},{port} user=u connect_timeout=30"
        began = time.monotonic()
        done = relay("doctor", "--nats-url", f"nats://127.0.0.1:{port}", RELAY_POSTGRES_DSN=dsn)
    assert time.monotonic() - began < 15
    assert done.returncode == 1
    assert "2 faults" in done.stdout
