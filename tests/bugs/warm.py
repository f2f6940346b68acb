"""Runs pytest again and again in forks of one process that has imported the libraries already.

    a line on stdin: {"tests": [...], "output": file, "patience": seconds a test}
      ──►  fork ──►  its exit code on stdout

A script, started with the tree as its folder: nothing of the relay or of its tests is imported
before the fork, so that each fork meets them as they are then.
"""

import json
import os
import sys

import hypothesis.stateful
import nats.js
import opentelemetry.sdk.metrics
import opentelemetry.sdk.trace
import psycopg_pool
import pytest
import starlette.applications
import trio
import typer
import uvicorn

WARM = hypothesis, nats, opentelemetry, psycopg_pool, starlette, trio, typer, uvicorn
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-o", "timeout_method=thread")
PRELOADED = ("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")


def run(tests: list[str], output: str, patience: int) -> int:
    """Run ``tests`` in a fork that writes into the file ``output``; return its exit code.

    A test that a bug makes wait for ever has caught it, after ``patience`` s.
    """
    child = os.fork()
    if child == 0:
        written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(written, 1)
        os.dup2(written, 2)
        code = pytest.main([*OPTIONS, "--timeout", str(patience), *PRELOADED, *tests])
        sys.stdout.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    for line in sys.stdin:
        print(run(**json.loads(line)), flush=True)  # noqa: T201 - the answer
