"""The Helm chart: rendered by Helm, held against Kubernetes' schemas, read by the relay."""

import copy
from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml
from pydantic import ValidationError

import relay
from relay.errors import SchemaError, SettingsError
from relay.settings import Settings
from tests.deploy import chart

OLDEST = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())["kubeVersion"]
VERSIONS = [OLDEST.removeprefix(">=").removesuffix("-0"), kubernetes_validate.latest_version()]
KEYS = {
    "deployment": "Deployment",
    "migrate": "Job",
    "podDisruptionBudget": "PodDisruptionBudget",
    "podMonitor": "PodMonitor",
}
"""The keys of ``patches``, and the kinds that they patch."""
MANY: dict[str, Any] = {
    **chart.ALL,
    "replicas": 3,
    "image": {"repository": "images.example/relay", "tag": "1", "pullPolicy": "Always"},
    "env": {
        "RELAY_BATCH_SIZE": 50,
        "RELAY_STREAM_CREATE": False,
        "OTEL_SERVICE_INSTANCE_ID": {"fieldRef": {"fieldPath": "metadata.name"}},
    },
    "secret": {"name": "of-relay", "files": {"RELAY_NATS_CREDS": "relay.creds"}},
    "migrate": {"secret": "of-owner"},
}


def pod(thing: dict[str, Any]) -> dict[str, Any]:
    return thing["spec"]["template"]["spec"]


def container(thing: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod(thing)["containers"]
    return only


def env(thing: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in container(thing)["env"]}


def check(made: dict[str, dict[str, Any]], version: str) -> None:
    for kind, each in made.items():
        if kind != "PodMonitor":
            kubernetes_validate.validate(each, version, strict=True)


def test_helm_s_linter_finds_nothing() -> None:
    report = helm.lint(str(chart.CHART), strict=True)
    assert report["errors"] == []
    assert [each["error"] for each in report["messages"]] == ["icon is recommended"]


def test_the_chart_is_of_this_version() -> None:
    said = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert said["appVersion"] == said["version"] == relay.__version__
    image = container(chart.objects()["Deployment"])["image"]
    assert f"-t {image} " in (chart.FOLDER / "Containerfile").read_text()


def test_the_manifest_is_what_the_chart_makes() -> None:
    written = chart.MANIFEST.read_text(encoding="utf-8")
    assert written == chart.manifest(), "run python -m tests.deploy.chart"


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_as_kubernetes_wants_it(version: str) -> None:
    for values in (chart.ALL, MANY):
        check(chart.objects(values), version)


def test_a_key_that_kubernetes_does_not_know_is_found() -> None:
    made = chart.objects(
        {"patches": {"deployment": {"spec": {"template": {"spec": {"hostNetwrk": True}}}}}}
    )
    with pytest.raises(kubernetes_validate.ValidationError, match="hostNetwrk"):
        check(made, VERSIONS[-1])


@pytest.mark.slow
def test_the_pod_monitor_is_as_the_operator_wants_it_and_scrapes_what_is_served() -> None:
    from cloudcoil.models.prometheus_operator.v1 import PodMonitor

    made = chart.objects(chart.ALL)
    monitor = made["PodMonitor"]
    PodMonitor.model_validate(monitor, extra="forbid")
    wrong = copy.deepcopy(monitor)
    wrong["spec"]["podMetricsEndpoints"][0]["prot"] = "http"
    with pytest.raises(ValidationError, match="prot"):
        PodMonitor.model_validate(wrong, extra="forbid")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {each["name"] for each in container(made["Deployment"])["ports"]}
    assert "PodMonitor" not in chart.objects()


def test_every_selector_finds_the_relays_and_not_the_migration() -> None:
    made = chart.objects(chart.ALL)
    relays = made["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor"):
        wanted = made[kind]["spec"]["selector"]["matchLabels"].items()
        assert wanted <= relays
        assert not wanted <= made["Job"]["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_every_pod_is_a_plain_user_s_with_nothing_to_write_to(kind: str) -> None:
    """As the Pod Security Standards' level `restricted` asks, and more."""
    made = chart.objects(MANY)[kind]
    assert (
        pod(made)["securityContext"].items()
        >= {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        }.items()
    )
    assert container(made)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(made)["automountServiceAccountToken"] is False
    assert pod(made)["enableServiceLinks"] is False
    (volume,) = pod(made)["volumes"]
    assert volume["secret"]["defaultMode"] == 0o440


def test_secrets_are_files_and_nothing_else() -> None:
    made = chart.objects(MANY)
    assert (
        env(made["Deployment"]).items()
        >= {
            "RELAY_POSTGRES_DSN_FILE": "/etc/relay/dsn",
            "RELAY_NATS_CREDS": "/etc/relay/relay.creds",
            "RELAY_BATCH_SIZE": "50",
            "RELAY_STREAM_CREATE": "false",
        }.items()
    )
    assert pod(made["Deployment"])["volumes"][0]["secret"]["secretName"] == "of-relay"
    assert pod(made["Job"])["volumes"][0]["secret"]["secretName"] == "of-owner"
    assert "RELAY_NATS_CREDS" not in env(made["Job"])
    assert not any("secretKeyRef" in str(each) for each in made.values())


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_the_relay_reads_what_the_pod_is_given(kind: str, tmp_path: Path) -> None:
    (tmp_path / "dsn").write_text("host=db.example dbname=shop user=relay password=secret")
    (tmp_path / "dsn").chmod(0o440)
    made = chart.objects({"env": MANY["env"]})[kind]
    (mount,) = container(made)["volumeMounts"]
    given = {
        name: value.replace(mount["mountPath"], str(tmp_path))
        for name, value in env(made).items()
        if value is not None
    }
    settings = Settings.load(environ=given)
    assert "password=secret" in str(settings.postgres_dsn.get_secret_value())
    assert settings.batch_size == 50


def test_the_probes_ask_what_is_served_on_the_port_of_the_settings() -> None:
    made = container(chart.objects()["Deployment"])
    assert made["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "http"}
    assert made["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    (port,) = made["ports"]
    (served,) = [each["value"] for each in made["env"] if each["name"] == "RELAY_HTTP"]
    assert served == f"0.0.0.0:{port['containerPort']}"


def test_the_migration_runs_before_the_relays_and_gives_up_where_a_person_must_act() -> None:
    job = chart.objects()["Job"]
    assert container(job)["args"] == ["migrate"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    (rule,) = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [SettingsError.exit_code, SchemaError.exit_code]
    assert rule["onExitCodes"]["containerName"] == container(job)["name"]
    assert "Job" not in chart.objects({"migrate": {"enabled": False}})


def test_a_deploy_takes_no_relay_away_before_the_next_one_is_ready() -> None:
    made = chart.objects()
    assert made["Deployment"]["spec"]["replicas"] == 2
    assert made["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    grace = pod(made["Deployment"])["terminationGracePeriodSeconds"]
    assert grace > Settings.load(environ={"RELAY_POSTGRES_DSN": "dbname=a"}).shutdown_timeout


@pytest.mark.parametrize("key", KEYS)
def test_every_object_can_be_patched(key: str) -> None:
    patch = {"metadata": {"annotations": {"team": "a"}, "name": "other"}}
    before, after = chart.objects(chart.ALL), chart.objects({**chart.ALL, "patches": {key: patch}})
    changed = after[KEYS[key]]
    assert changed["metadata"]["name"] == "other"
    assert changed["metadata"]["annotations"]["team"] == "a"
    assert changed["metadata"]["labels"] == before[KEYS[key]]["metadata"]["labels"]
    assert changed["spec"] == before[KEYS[key]]["spec"]
    others = set(KEYS.values()) - {KEYS[key]}
    assert {kind: after[kind] for kind in others} == {kind: before[kind] for kind in others}


def test_a_patch_merges_lists_by_name_replaces_others_and_removes() -> None:
    inner = {
        "nodeSelector": {"disk": "fast", "zone": {"$patch": "delete"}},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "imagePullSecrets": [{"name": "one"}, {"name": "two", "$patch": "delete"}],
        "topologySpreadConstraints": [{"maxSkew": 2}],
        "securityContext": {"runAsUser": {"$patch": "delete"}},
        "volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "containers": [
            {
                "name": "relay",
                "args": ["run", "--log-level", "debug"],
                "livenessProbe": {"$patch": "delete"},
                "resources": {"limits": {"memory": "1Gi"}},
                "env": [
                    {"name": "RELAY_STREAM", "value": "OTHER"},
                    {"name": "RELAY_HTTP", "$patch": "delete"},
                    {"name": "TZ", "value": "UTC"},
                ],
                "volumeMounts": [
                    {"name": "ca", "mountPath": "/ca"},
                    {"name": "secret", "mountPath": "/also"},
                ],
            },
            {"name": "sidecar", "image": "sidecar:1"},
        ],
    }
    before = chart.objects()["Deployment"]
    values = {"patches": {"deployment": {"spec": {"template": {"spec": inner}}}}}
    made = chart.objects(values)["Deployment"]
    ours, sidecar = pod(made)["containers"]
    assert sidecar == {"name": "sidecar", "image": "sidecar:1"}
    assert ours["args"] == ["run", "--log-level", "debug"]
    assert ours["readinessProbe"] == container(before)["readinessProbe"]
    assert "livenessProbe" not in ours
    assert ours["resources"] == {
        "requests": container(before)["resources"]["requests"],
        "limits": {"memory": "1Gi"},
    }
    assert {each["name"]: each["value"] for each in ours["env"]} == {
        **{name: value for name, value in env(before).items() if name != "RELAY_HTTP"},
        "RELAY_STREAM": "OTHER",
        "TZ": "UTC",
    }
    assert [each["mountPath"] for each in ours["volumeMounts"]] == ["/etc/relay", "/ca", "/also"]
    assert pod(made)["topologySpreadConstraints"] == [{"maxSkew": 2}]
    assert "runAsUser" not in pod(made)["securityContext"]
    assert [each["name"] for each in pod(made)["volumes"]] == ["secret", "ca"]
    assert pod(made)["nodeSelector"] == {"disk": "fast"}
    assert pod(made)["tolerations"] == [{"key": "a", "operator": "Exists"}]
    assert pod(made)["imagePullSecrets"] == [{"name": "one"}]
    assert "$patch" not in str(made)


def test_a_default_is_left_out_by_null() -> None:
    values = {
        "env": {"RELAY_STREAM": None},
        "secret": {"files": {"RELAY_POSTGRES_DSN_FILE": None}},
    }
    for kind in ("Deployment", "Job"):
        assert set(env(chart.objects(values)[kind])) == {"RELAY_HTTP", "RELAY_NATS_URL"}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replica": 3}, "replica"),
        ({"replicas": "3"}, "replicas"),
        ({"image": {"name": "x"}}, "name"),
        ({"secret": {"files": {"DSN": "dsn"}}}, "DSN"),
        ({"podMonitor": {"interval": "often"}}, "often"),
        ({"patches": {"service": {}}}, "service"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_that_the_chart_does_not_know_is_refused_by_name(
    values: dict[str, Any], named: str
) -> None:
    with pytest.raises(helm.HelmError, match=named):
        chart.objects(values)
