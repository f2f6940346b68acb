"""The image: its steps run as they stand in the Containerfile, and then what the chart starts.

There is no container runtime and no base image here: see image.py for what stands for them.
"""

import json
import re
import subprocess
import urllib.request
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from relay import devstack
from relay.devstack.sandbox import free_port
from tests.deploy import chart, image, supply
from tests.system.harness import until

NO_INDEX = re.compile(r"\(from versions: none\)|Max retries exceeded|Read timed out")
"""What pip ends with where no index, or not the whole of a file, can be had."""


def test_the_last_stage_has_no_step_that_needs_a_compiler_or_the_network() -> None:
    *_, last = image.stages()
    assert last.runs == []
    assert last.copies == [["--from=build", "/app", "/app"]]


def test_image_and_chart_agree_on_user_command_and_port() -> None:
    *_, last = image.stages()
    made = chart.objects()
    for kind in ("Deployment", "Job"):
        pod = made[kind]["spec"]["template"]["spec"]
        user = pod["securityContext"]
        assert last.user == f"{user['runAsUser']}:{user['runAsGroup']}"
        assert "command" not in pod["containers"][0]
    assert json.loads(last.last["ENTRYPOINT"]) == ["relay"]
    container = made["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert json.loads(last.last["CMD"]) == container["args"]
    assert int(last.last["EXPOSE"]) == container["ports"][0]["containerPort"]


@pytest.mark.slow
def test_the_image_builds_as_a_plain_user_and_runs_on_a_read_only_root(
    tmp_path: Path, one_postgres: devstack.Postgres, nats_server: devstack.NatsServer
) -> None:
    allowed = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    if allowed.returncode:
        pytest.skip(f"no mount namespace for this user: {allowed.stderr.decode().strip()}")
    built = image.build(tmp_path)
    last = "\n".join(built.stderr.splitlines()[-3:])
    if built.returncode and NO_INDEX.search(last):
        pytest.skip(f"no package index in reach: {last}")
    assert built.returncode == 0, built.stdout + built.stderr
    found = {each.name for each in tmp_path.glob("app/lib/*/site-packages/*")}
    assert {
        canonicalize_name(name.removesuffix(".dist-info").partition("-")[0])
        for name in found
        if name.endswith(".dist-info")
    } == {*supply.pins(), "relay-outbox"}
    assert not found & {"pip", "setuptools", "hatchling"}

    *_, stage = image.stages()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/dsn").write_text(one_postgres.create_database("image"))
    port = free_port()
    stage.env |= {
        "RELAY_POSTGRES_DSN_FILE": "/secret/dsn",
        "RELAY_NATS_URL": nats_server.url,
        "RELAY_HTTP": f"127.0.0.1:{port}",
    }

    def started(*command: str) -> list[str]:
        binds = {"/app": f"{tmp_path}/app:ro", "/secret": f"{tmp_path}/secret:ro"}
        return image.inside(stage, command, tmp_path, binds)

    touch = subprocess.run(
        started("touch", "/app/x", "/x", "/usr/x"), capture_output=True, check=False
    )
    assert touch.stderr.count(b"Read-only file system") == 3
    subprocess.run(started("relay", "migrate"), timeout=60, check=True)
    process = subprocess.Popen(started("relay", "run"))
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: answered(f"{url}/readyz") or process.poll() is not None, 30)
        assert "relay_leader 1" in answered(f"{url}/metrics")
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


def answered(url: str) -> str:
    """The body, or nothing if the answer is not 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""
