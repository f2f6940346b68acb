"""The command line as its own process."""

import json
import os
import subprocess
import sys


def relay(*args, **environ):
    kept = {name: text for name, text in os.environ.items() if not name.startswith("RELAY_")}
    return subprocess.run(
        [sys.executable, "-m", "relay", *args],
        env={**kept, "COLUMNS": "200", "NO_COLOR": "1", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def migrated(database, schema="relay"):
    done = relay("migrate", "--schema", schema, RELAY_POSTGRES_DSN=database)
    assert done.returncode == 0, done.stderr


def status(database, *args, **variables):
    done = relay("status", "--json", *args, RELAY_POSTGRES_DSN=database, **variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
