"""The command line as its own process."""

import json
import os
import sys

from tests import warm


def relay(*args, **environ):
    kept = {name: text for name, text in os.environ.items() if not name.startswith("RELAY_")}
    return warm.run(
        [sys.executable, "-m", "relay", *args],
        env={**kept, "COLUMNS": "200", "NO_COLOR": "1", **environ},
    )


def migrated(database, schema="relay"):
    done = relay("migrate", "--schema", schema, RELAY_POSTGRES_DSN=database)
    assert done.returncode == 0, done.stderr


def status(database, *args, **variables):
    done = relay("status", "--json", *args, RELAY_POSTGRES_DSN=database, **variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
