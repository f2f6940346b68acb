"""Settings: where they come from, and in which order."""

import errno
import os
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import SettingsError
from relay.settings import Settings
from tests.settings.faults import CANARY, faults


def test_without_any_source_the_defaults_count():
    settings = Settings.load({}, {})
    assert settings == Settings()
    assert settings.schema_name == "relay"
    assert settings.nats_url == ("nats://127.0.0.1:4222",)
    assert settings.poll_interval == 0.1
    assert (settings.batch_size, settings.max_batch_size) == (100, 2000)
    assert settings.max_batch_bytes == 8 * 1024 * 1024
    assert settings.max_retry_delay == 30.0
    assert settings.retention == 900.0
    assert settings.shutdown_timeout == 8.0
    assert settings.lease_lifetime == 5.0
    assert settings.message_id_prefix == ""
    assert settings.nats_js_domain is None
    assert settings.conninfo == ""
    assert settings.warnings == ()


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(toml):
    path = toml('batch_size = 1\nmax_batch_size = 11\nmax_retry_delay = "1s"\nschema = "filed"\n')
    settings = Settings.load(
        {"batch_size": "3", "max_batch_size": None, "config": path},
        {"RELAY_BATCH_SIZE": "2", "RELAY_MAX_BATCH_SIZE": "12", "RELAY_CONFIG": "/not/looked/at"},
    )
    assert settings.batch_size == 3
    assert settings.max_batch_size == 12
    assert settings.max_retry_delay == 1.0
    assert settings.schema_name == "filed"
    assert settings.retention == 900.0


def test_the_file_may_be_named_by_the_environment(toml):
    path = toml('stream = "S"\nstream_subjects = ["a.>", "b.*"]\nstream_create = true\n')
    settings = Settings.load({}, {"RELAY_CONFIG": path})
    assert settings.stream == "S"
    assert settings.stream_subjects == ("a.>", "b.*")
    assert settings.stream_create is True


def test_an_empty_variable_counts_as_not_set():
    environ = {"RELAY_NATS_TOKEN": "", "RELAY_BATCH_SIZE": "", "RELAY_CONFIG": ""}
    assert Settings.load({}, environ) == Settings()


def test_the_processes_own_environment_is_read_unless_another_is_given(monkeypatch):
    monkeypatch.setenv("RELAY_SCHEMA", "from_environment")
    assert Settings.load().schema_name == "from_environment"
    assert Settings.load({}, {}).schema_name == "relay"


def test_an_address_that_somebody_asked_for_is_told_from_the_default(toml):
    assert not Settings.load({}, {}).http_is_asked_for
    assert not Settings.load({}, {"RELAY_HTTP": ""}).http_is_asked_for
    assert Settings.load({}, {"RELAY_HTTP": "127.0.0.1:8080"}).http_is_asked_for
    assert Settings.load({"http": "off"}, {}).http_is_asked_for
    named = toml('http = "127.0.0.1:8080"\n')
    assert Settings.load({"config": named}, {}).http_is_asked_for
    assert Settings.load({"config": toml("http = false\n")}, {}).http is None


def test_a_file_that_can_not_be_read_is_a_fault_with_the_reason(tmp_path, toml):
    missing = os.strerror(errno.ENOENT)
    assert faults({"config": "/not/there"}, {}) == [
        f"config = '/not/there' (flag --config) names a file that can't be read: {missing}"
    ]
    [fault] = faults({"config": str(tmp_path)}, {})
    assert f"can't be read: {os.strerror(errno.EISDIR)}" in fault
    [fault] = faults({}, {"RELAY_CONFIG": toml("batch_size = \n")})
    assert "(environment RELAY_CONFIG) names a file that is not valid TOML: " in fault
    assert "line 1" in fault


def test_credentials_that_are_not_there_are_a_fault_unless_nobody_needs_them(tmp_path):
    environ = {"RELAY_NATS_CREDS": str(tmp_path / "none.creds")}
    [fault] = faults({}, environ)
    assert f"is a file that can't be read: {os.strerror(errno.ENOENT)}" in fault
    assert Settings.load({}, environ, check_files=False).nats_creds == tmp_path / "none.creds"
    (tmp_path / "none.creds").touch()
    assert Settings.load({}, environ).nats_creds == tmp_path / "none.creds"


@pytest.mark.parametrize(
    ("variable", "says"),
    [
        ("RELAY_TYPO", "take it out"),
        ("RELAY_BATCHSIZE", "did you mean RELAY_BATCH_SIZE?"),
        ("RELAY_NATS_TOKN", "did you mean RELAY_NATS_TOKEN?"),
        ("RELAY_NATS_PASWORD_FILE", "did you mean RELAY_NATS_PASSWORD_FILE?"),
        ("RELAY_STREAM_FILE", "is no setting"),
        ("RELAY_HTTP_PORT", "is no setting"),
        ("RELAY_batch_size", "is no setting"),
        ("RELAY_", "take it out"),
    ],
)
def test_a_variable_that_is_no_setting_is_a_fault_with_the_nearest_name(variable, says):
    [fault] = faults({}, {variable: CANARY})
    assert fault.startswith(f"{variable} (environment) is no setting: ")
    assert says in fault
    assert CANARY not in fault


@pytest.mark.parametrize("service", ["", "HTTP_", "NATS_MAIN_"])
def test_what_kubernetes_and_others_set_is_none_of_ours(service):
    settings = Settings.load(
        {},
        {
            f"RELAY_{service}SERVICE_HOST": "10.0.0.1",
            f"RELAY_{service}SERVICE_PORT": "80",
            f"RELAY_{service}SERVICE_PORT_WEB_UI": "80",
            f"RELAY_{service}PORT": "tcp://10.0.0.1:80",
            f"RELAY_{service}PORT_80_TCP": "tcp://10.0.0.1:80",
            f"RELAY_{service}PORT_80_TCP_PROTO": "tcp",
            f"RELAY_{service}PORT_80_TCP_PORT": "80",
            f"RELAY_{service}PORT_53_UDP_ADDR": "10.0.0.1",
            "RELAY_FAILPOINTS": "after-read=kill",
            "RELAY_PG_BIN": "/usr/lib/postgresql/15/bin",
            "RELAY_HTTP": "off",
            "RELAY_MAX_ATTEMPTS": "10",
            "RELAY_CIRCUIT_BREAKER_LAG": "5s",
            "RELAY_TEST_POSTGRES": "18",
            "BATCH_SIZE": "1",
        },
    )
    assert settings.warnings == ()


def taken_or_refused_by_lines(flags, environ):
    """Load settings; the faults of those that are refused, each of one line."""
    try:
        Settings.load(flags, environ)
    except SettingsError as error:
        found = error.faults
    else:
        return []
    assert found
    assert not any("\n" in fault for fault in found)
    return found


@given(st.dictionaries(st.sampled_from([row[0] for row in Settings.table()[:-1]]), st.text()))
def test_any_environment_is_taken_or_refused_by_lines_of_faults(environ):
    taken_or_refused_by_lines({}, environ)


TOML_VALUES = st.sampled_from(
    [
        *(
            "1",
            "-1",
            "1.5",
            "nan",
            "1e999",
            "true",
            '""',
            '"x"',
            '"5s"',
            "[]",
            '["a", 1]',
            "{a = 1}",
        ),
        *(
            "1979-05-27",
            '"\\n"',
            '"\\u0000"',
            f'"{CANARY}@h"',
            "0x10",
            "[[1]]",
            '"SU\\n"',
            "9" * 5000,
        ),
    ]
)


@given(
    st.text(max_size=30)
    | st.dictionaries(
        st.sampled_from([row[1][2:].replace("-", "_") for row in Settings.table()])
        | st.sampled_from(["nats_token_file", "postgres_dsn_file", "nats", '"x y"']),
        TOML_VALUES,
        max_size=4,
    ).map(lambda given: "\n".join(f"{name} = {value}" for name, value in given.items()))
)
def test_any_file_is_taken_or_refused_by_lines_of_faults(content):
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", errors="replace") as file:
        file.write(content)
        file.flush()
        found = taken_or_refused_by_lines({"config": file.name}, {})
    assert CANARY not in "".join(found)
