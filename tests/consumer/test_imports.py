"""What a consumer's service has to load."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("opentelemetry.sdk", "starlette", "typer", "uvicorn", "rich", "relay.engine", "relay.cli")


@pytest.mark.parametrize(
    "module", ["relay.consumer", "relay.consumer.psycopg", "relay.consumer.sqlalchemy"]
)
def test_the_consumer_loads_neither_sdk_nor_web_server_nor_engine(module: str) -> None:
    if module.endswith("sqlalchemy"):
        pytest.importorskip("sqlalchemy")
    code = f"import {module}, sys; print(*sys.modules, sep=chr(10))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    assert module in loaded
    assert [name for name in loaded if name.startswith(HEAVY)] == []


def test_it_works_without_the_telemetry_api() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from relay.consumer.calling import Telemetry\n"
        "made = Telemetry('S', 'c')\n"
        "made.consumed('handled', 1); made.called(0.1); made.refused(ValueError())\n"
        "with made.processing([]): print('done')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "done\n"
