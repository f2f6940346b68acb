"""What the variables ask for, before anything of OpenTelemetry is loaded."""

import pytest

from relay.otel.export import GRPC, HTTP, Plan, plan

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def decided(*, serving=False, can_serve=False, **environ):
    return plan(environ, serving=serving, can_serve=can_serve)


def test_without_a_variable_nothing_is_loaded():
    assert not decided()
    assert not decided(serving=True)
    assert not decided(can_serve=True)
    assert not decided(OTEL_SERVICE_NAME="x", OTEL_TRACES_SAMPLER="always_on", serving=True)


@pytest.mark.parametrize(
    ("variables", "traces", "metrics"),
    [
        ({ENDPOINT: "http://c:4318"}, (HTTP,), (HTTP,)),
        ({ENDPOINT: "http://c:4317"}, (GRPC,), (GRPC,)),
        ({ENDPOINT: "c:4317"}, (GRPC,), (GRPC,)),
        ({ENDPOINT: "https://c/otlp"}, (HTTP,), (HTTP,)),
        ({ENDPOINT: "http://c:port"}, (HTTP,), (HTTP,)),
        ({ENDPOINT: "http://c:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, (GRPC,), (GRPC,)),
        (
            {ENDPOINT: "http://c:4317", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
            (HTTP,),
            (GRPC,),
        ),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, (HTTP,), ()),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, (HTTP,), ()),
        ({"OTEL_METRICS_EXPORTER": "console"}, (), ("console",)),
        ({"OTEL_METRICS_EXPORTER": "otlp, console"}, (), (HTTP, "console")),
        ({ENDPOINT: "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, (), (HTTP,)),
        ({ENDPOINT: ""}, (), ()),
        ({ENDPOINT: "http://c:4318", "OTEL_SDK_DISABLED": "TRUE"}, (), ()),
    ],
)
def test_each_signal_has_its_exporters(variables, traces, metrics):
    assert decided(**variables) == Plan(traces, metrics)


def test_the_configuration_file_excludes_the_variables():
    assert decided(OTEL_CONFIG_FILE="otel.yaml", OTEL_TRACES_EXPORTER="otlp", serving=True) == Plan(
        config_file="otel.yaml"
    )


@pytest.mark.parametrize(
    ("exporters", "metrics", "served"),
    [
        (None, (), True),
        ("prometheus", (), True),
        ("otlp,prometheus", (HTTP,), True),
        ("otlp", (HTTP,), False),
        ("none", (), False),
    ],
)
def test_metrics_are_served_with_the_extra_unless_the_variable_names_others(
    exporters, metrics, served
):
    variables = {} if exporters is None else {"OTEL_METRICS_EXPORTER": exporters}
    found = decided(**variables, serving=True, can_serve=True)
    assert (found.metrics, found.served, found.faults) == (metrics, served, ())


def test_without_http_prometheus_has_a_port_of_its_own_as_the_variables_say():
    assert decided(OTEL_METRICS_EXPORTER="prometheus", can_serve=True) == Plan(
        metrics=("prometheus",)
    )


def test_prometheus_without_its_library_says_how_to_get_it():
    found = decided(OTEL_METRICS_EXPORTER="prometheus,console", serving=True)
    assert (found.metrics, found.served) == (("console",), False)
    (fault,) = found.faults
    assert "OTEL_METRICS_EXPORTER=prometheus" in fault
    assert 'pip install "relay-outbox[prometheus]"' in fault


def test_an_unknown_protocol_is_named_and_its_signal_left_out():
    found = decided(**{ENDPOINT: "http://c"}, OTEL_EXPORTER_OTLP_METRICS_PROTOCOL="http/json")
    assert (found.traces, found.metrics) == ((HTTP,), ())
    assert found.faults == (
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL=http/json is none of grpc, http/protobuf",
    )
