"""Settings: where they come from, what is refused, and what is never shown."""

import errno
import os
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from relay.errors import SettingsError
from relay.settings import Settings
from relay.settings.kinds import write_size
from relay.settings.model import SETTINGS

CANARY = "c4n4ry-in-the-mine"


def faults(*args, **kwargs):
    with pytest.raises(SettingsError) as caught:
        Settings.load(*args, **kwargs)
    assert str(caught.value) == "\n".join(caught.value.faults)
    return caught.value.faults


@pytest.fixture
def toml(tmp_path):
    def write(text):
        path = tmp_path / "relay.toml"
        path.write_text(text)
        return str(path)

    return write


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


def test_the_constructor_takes_python_values_and_looks_at_nothing_else(monkeypatch):
    monkeypatch.setenv("RELAY_BATCH_SIZE", "7")
    settings = Settings(
        postgres_dsn="host=h dbname='a b'", nats_url=["h:1", "tls://h:2"], poll_interval=0.25
    )
    assert settings.conninfo == "host=h dbname='a b'"
    assert settings.nats_url == ("nats://h:1", "tls://h:2")
    assert settings.poll_interval == 0.25
    assert Settings(poll_interval="100ms").poll_interval == 0.1
    assert settings.batch_size == 100


def test_the_constructor_too_says_every_fault_at_once():
    with pytest.raises(SettingsError) as caught:
        Settings(poll_interval=True, batch_size=0, schema="Shop", nonsense=1)
    assert caught.value.faults == [
        (
            "schema = 'Shop' (argument) is no schema name: use at most 40 of a-z, 0-9 and _,"
            " no digit first, no pg_ first"
        ),
        (
            "poll_interval = True (argument) is not a duration: write a number and a unit,"
            " such as 100ms"
        ),
        "batch_size = 0 (argument) is out of bounds: from 1 to 10000",
        "nonsense (argument) is no setting: take it out",
    ]


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:p%2Fw@h:5432/db?sslmode=require",
        "postgres:///db?host=/run/postgresql",
        "postgresql://[::1]/db",
        "postgresql://",
        "host=h",
        " dbname = 'it\\'s' password='a b' ",
        "host=a,b port=1,2 options='-c a=b'",
    ],
)
def test_every_form_of_connection_string_is_taken_as_it_stands(dsn):
    assert Settings(postgres_dsn=dsn).conninfo == dsn


@pytest.mark.parametrize(
    ("text", "host", "port", "told"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080, "127.0.0.1:8080"),
        (" localhost:0 ", "localhost", 0, "localhost:0"),
        ("[::1]:9", "::1", 9, "[::1]:9"),
        ("relay-1.example:80", "relay-1.example", 80, "relay-1.example:80"),
    ],
)
def test_an_address_to_listen_on_is_a_host_and_a_port(text, host, port, told):
    address = Settings(http=text).http
    assert (address.host, address.port, str(address)) == (host, port, told)


@pytest.mark.parametrize("off", ["off", "OFF", False, None])
def test_http_can_be_off(off):
    assert Settings(http=off).http is None


def test_an_address_that_somebody_asked_for_is_told_from_the_default(toml):
    assert not Settings.load({}, {}).http_is_asked_for
    assert not Settings.load({}, {"RELAY_HTTP": ""}).http_is_asked_for
    assert Settings.load({}, {"RELAY_HTTP": "127.0.0.1:8080"}).http_is_asked_for
    assert Settings.load({"http": "off"}, {}).http_is_asked_for
    named = toml('http = "127.0.0.1:8080"\n')
    assert Settings.load({"config": named}, {}).http_is_asked_for
    assert Settings.load({"config": toml("http = false\n")}, {}).http is None


def test_settings_do_not_change():
    with pytest.raises(ValidationError):
        Settings().batch_size = 5


def test_every_fault_is_said_at_once_with_its_source_and_remedy(toml):
    path = toml('pol_interval = "1s"\nretention = 5\nlog_level = "loud"\n[nats]\nurl = "h"\n')
    assert faults(
        {"config": path, "batch_size": "3000", "stream_create": True},
        {"RELAY_POLL_INTERVAL": "15", "RELAY_NATS_USER": "u", "RELAY_ON_DEATH": "maybe"},
    ) == [
        "RELAY_ON_DEATH (environment) is no setting: did you mean RELAY_ON_DEAD?",
        f"retention = '5' (file {path}, key retention) has no unit: write 5ms, 5s or 5min",
        (
            "poll_interval = '15' (environment RELAY_POLL_INTERVAL) has no unit:"
            " write 15ms, 15s or 15min"
        ),
        (
            f"log_level = 'loud' (file {path}, key log_level) is not one of 'debug', 'info',"
            " 'warning' or 'error': write one of them"
        ),
        f"pol_interval (file {path}, key pol_interval) is no setting: did you mean poll_interval?",
        (
            f"nats (file {path}, key nats) is a table, and settings are flat:"
            " write nats_url = … at the top level"
        ),
        (
            "nats_user = 'u' (environment RELAY_NATS_USER) is only half of a login:"
            " set nats_user and nats_password, or neither"
        ),
        (
            "batch_size = '3000' (flag --batch-size) makes batch_size larger than max_batch_size:"
            " lower the first or raise the second"
        ),
        "stream_create = True (flag --stream-create) names no stream to make: set stream, too",
        (
            "stream_create = True (flag --stream-create) can't make a stream without subjects:"
            " set stream_subjects, too"
        ),
    ]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("lease_lifetime", "1s", "from 2s to 1min"),
        ("lease_lifetime", "61s", "from 2s to 1min"),
        ("lease_lifetime", "5", "has no unit"),
        ("message_id_prefix", "shop", "ends in its only colon"),
        ("message_id_prefix", "a:b:", "only colon"),
        ("message_id_prefix", ":", "is no prefix of message ids"),
        ("message_id_prefix", "the shop:", "without spaces"),
        ("message_id_prefix", "relay-1:", "does not begin with relay-"),
        ("message_id_prefix", "é:", "printable ASCII"),
        ("message_id_prefix", "x" * 64 + ":", "at most 64 bytes"),
        ("nats_js_domain", "hub.>", "is no JetStream domain"),
        ("nats_js_domain", "a b", "is no JetStream domain"),
        ("nats_js_domain", ".hub", "is no JetStream domain"),
        ("poll_interval", "0.5ms", "from 1ms to 10min"),
        ("poll_interval", "11min", "from 1ms to 10min"),
        ("retention", "0", "from 1s to 365d"),
        ("max_batch_size", "10001", "from 1 to 10000"),
        ("batch_size", "1.5", "is not a whole number"),
        ("max_batch_bytes", "8 mib", "is not a size"),
        ("max_batch_bytes", "512", "from 1KiB to 1GiB"),
        ("postgres_dsn", "hunter2", "is no connection string"),
        ("postgres_dsn", "postgresql://u:1%Z@h/db", "write %25"),
        ("postgres_dsn", "postgresql://u:1/2@h/db", "%2F"),
        ("nats_url", "nats://", "has no host in URL 1"),
        ("nats_url", "nats://a,,nats://b", "has no host in URL 2"),
        ("nats_url", "nats://a:port", "has no host in URL 1"),
        ("nats_url", "http://a", "has an unknown scheme in URL 1: use nats:// or tls://"),
        ("nats_inbox_prefix", "a.*", "is no subject prefix"),
        ("nats_user", " ", "is empty"),
        ("stream", "a b", "is no stream name"),
        ("stream_subjects", "a.>.b", "has no valid subject in 'a.>.b'"),
        ("stream_subjects", "a..b", "has no valid subject in 'a..b'"),
        ("schema", "pg_mine", "is no schema name"),
        ("schema", "1st", "is no schema name"),
        ("http", "8080", "is no address: write 127.0.0.1:8080"),
        ("http", ":8080", "is no address"),
        ("http", "http://localhost:8080", "is no address"),
        ("http", "::1:8080", "is no address"),
        ("http", "[1::2::3]:8080", "is no address"),
        ("http", "localhost:65536", "from 0 to 65535"),
        ("http_token", "too-short", "16 to 512 letters"),
        ("http_token", "with a space inside", "without spaces"),
        ("log_format", "xml", "'auto', 'text' or 'json'"),
    ],
)
def test_a_value_that_can_not_work_is_refused_with_the_remedy(name, value, says):
    [fault] = faults(
        {},
        {f"RELAY_{name.upper()}": value, "RELAY_STREAM": "S"}
        | ({"RELAY_STREAM": value} if name == "stream" else {}),
    )
    assert fault.startswith(name)
    assert f"(environment RELAY_{name.upper()}) " in fault
    assert says in fault


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"nats_tls_cert": "c"}, "nats_tls_cert = 'c' (argument) is only half of a certificate"),
        ({"nats_tls_key": "k"}, "nats_tls_key = 'k' (argument) is only half of a certificate"),
        ({"nats_password": "p"}, "nats_password (argument) is only half of a login"),
        ({"nats_creds": "c", "nats_token": "t"}, "keep one of nats_creds, nats_token"),
        ({"stream_subjects": "a"}, "stream_subjects = 'a' (argument) is for no stream"),
        ({"stream_create": True, "stream": "S"}, "can't make a stream without subjects"),
        ({"max_batch_size": 50}, "max_batch_size = 50 (argument) makes batch_size larger"),
    ],
)
def test_combinations_that_can_not_work_are_refused(values, says):
    with pytest.raises(SettingsError) as caught:
        Settings(**values)
    [fault] = caught.value.faults
    assert says in fault


def test_a_fault_of_one_setting_is_not_told_again_as_a_combination():
    [fault] = faults({}, {"RELAY_NATS_USER": "u", "RELAY_NATS_PASSWORD": "\n"})
    assert fault == (
        "nats_password (environment RELAY_NATS_PASSWORD) is empty: set it, or leave it out"
    )


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


@pytest.mark.parametrize("prefix", ["", "shop:", "x" * 63 + ":", "Relay/2-b:"])
def test_a_prefix_of_message_ids_ends_in_its_only_colon(prefix):
    assert Settings(message_id_prefix=prefix).message_id_prefix == prefix


@pytest.mark.parametrize("domain", ["hub", "$JS.hub.API", "my.prefix.API."])
def test_a_jetstream_domain_is_its_name_or_its_api(domain):
    assert Settings.load({"nats_js_domain": domain}, {}).nats_js_domain == domain


SECRETS = {
    "postgres_dsn": f"host=h password={CANARY}",
    "nats_nkey_seed": CANARY,
    "nats_password": CANARY,
    "nats_token": CANARY,
    "http_token": CANARY,
}


@pytest.fixture
def secret_file(tmp_path):
    def write(text, mode=0o600):
        path = tmp_path / f"secret-{len(list(tmp_path.iterdir()))}"
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    return write


@pytest.mark.parametrize("name", SECRETS)
def test_every_secret_can_come_from_a_file(name, secret_file, toml):
    seed = "SUAMK2FG4MI6UE3ACF3FK3OIQBCEIEZV7NSWFFEW63UXMRLFM2XLAXK4GY"
    value = seed if name == "nats_nkey_seed" else SECRETS[name]
    user = {"RELAY_NATS_USER": "u"} if name == "nats_password" else {}
    named = {f"RELAY_{name.upper()}_FILE": secret_file(f"{value}\n")}
    settings = Settings.load({}, named | user)
    assert getattr(settings, name).get_secret_value() == value
    assert settings.warnings == ()
    in_toml = toml(f'{name}_file = "{secret_file(value)}"\n')
    settings = Settings.load({"config": in_toml}, user)
    assert getattr(settings, name).get_secret_value() == value


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_given_twice_is_a_fault(name, secret_file, toml):
    seed = {"nats_nkey_seed": "S" + "U" * 57}.get(name, SECRETS[name])
    user = {"RELAY_NATS_USER": "u"} if name == "nats_password" else {}
    variable = f"RELAY_{name.upper()}"
    both = {variable: seed, f"{variable}_FILE": secret_file(CANARY)}
    [fault] = faults({}, both | user)
    assert fault == f"{variable}_FILE (environment) is set beside {variable}: keep one of the two"
    in_toml = toml(f'{name} = "{seed}"\n{name}_file = "{secret_file(CANARY)}"\n')
    [fault] = faults({"config": in_toml}, user)
    assert f"key {name}_file) is set beside {name}: keep one of the two" in fault


def test_a_flag_beats_a_secret_s_file_which_beats_the_toml_file(secret_file, toml):
    path = toml(f'nats_token_file = "{secret_file("of the toml")}"\n')
    environ = {"RELAY_NATS_TOKEN_FILE": secret_file("of the environment"), "RELAY_CONFIG": path}
    for flags, token in (({"nats_token": "flag"}, "flag"), ({}, "of the environment")):
        assert Settings.load(flags, environ).nats_token.get_secret_value() == token
    assert Settings.load({}, {"RELAY_CONFIG": path}).nats_token.get_secret_value() == "of the toml"


def test_a_secret_s_file_that_can_not_be_read_is_a_fault_unless_nobody_needs_it(tmp_path):
    missing = str(tmp_path / "none")
    environ = {"RELAY_NATS_TOKEN_FILE": missing, "RELAY_HTTP_TOKEN_FILE": str(tmp_path)}
    found = faults({}, environ)
    assert found == [
        (
            f"nats_token_file = '{missing}' (environment RELAY_NATS_TOKEN_FILE) names a file that"
            f" can't be read: {os.strerror(errno.ENOENT)}"
        ),
        (
            f"http_token_file = '{tmp_path}' (environment RELAY_HTTP_TOKEN_FILE) names a file that"
            f" can't be read: {os.strerror(errno.EISDIR)}"
        ),
    ]
    assert Settings.load({}, environ, check_files=False).nats_token is None
    environ = {"RELAY_POSTGRES_DSN_FILE": missing}
    [fault] = faults({}, environ, check_files=False)
    assert "postgres_dsn_file" in fault
    (tmp_path / "large").write_bytes(b"x" * 100_000)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("large", "binary"):
        [fault] = faults({}, {"RELAY_NATS_TOKEN_FILE": str(tmp_path / name)})
        assert "can't be read" in fault


def test_what_a_secret_s_file_holds_is_in_no_fault(secret_file):
    file = secret_file(f"no dsn {CANARY}")
    [fault] = faults({}, {"RELAY_POSTGRES_DSN_FILE": file})
    assert f"(environment RELAY_POSTGRES_DSN_FILE, file {file}) is no connection string" in fault
    assert CANARY not in fault


@pytest.mark.parametrize("name", ["nats_token", "http_token", "postgres_dsn"])
def test_a_secret_that_everybody_can_read_is_a_warning(name, secret_file, toml):
    value = SECRETS[name]
    variable = f"RELAY_{name.upper()}_FILE"
    for mode, warned in ((0o644, 1), (0o604, 1), (0o640, 0), (0o600, 0)):
        file = secret_file(value, mode)
        warnings = Settings.load({}, {variable: file}).warnings
        assert len(warnings) == warned
        if warned:
            assert warnings[0].startswith(f"{name} (environment {variable}, file {file}): every")
            assert CANARY not in warnings[0]
    path = toml(f'{name} = "{value}"\n')
    Path(path).chmod(0o644)
    [warning] = Settings.load({"config": path}, {}).warnings
    assert warning.startswith("config (flag --config): every user of this machine can read")


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_not_in_anything_that_is_printed(name):
    settings = Settings(**{name: SECRETS[name]}, **({"nats_user": "u"} if "pass" in name else {}))
    shown = [repr(settings), str(settings), repr(settings.model_dump())]
    shown += [settings.model_dump_json(), repr(settings.model_dump(mode="json"))]
    shown += [repr(list(settings)), f"{vars(settings)}"]
    assert CANARY not in "".join(shown)
    assert CANARY in getattr(settings, name).get_secret_value()


@pytest.mark.parametrize(
    ("flags", "environ"),
    [
        ({"postgres_dsn": f"pass word {CANARY}"}, {}),
        ({"nats_url": f"nats://user:{CANARY}@h:4222"}, {}),
        ({"nats_url": f"nats://user:pa,{CANARY}@h:4222"}, {}),
        ({"nats_url": f"user:{CANARY}@h:x"}, {}),
        ({"nats_nkey_seed": f"SU{CANARY}"}, {}),
        ({"nats_password": CANARY}, {}),
        ({"nats_token": CANARY, "nats_nkey_seed": CANARY}, {}),
        ({"http_token": f"{CANARY} é"}, {}),
        ({"nats_creds": f"-----BEGIN-----\n{CANARY}"}, {}),
        ({}, {"RELAY_NATS_TOKN": CANARY, "RELAY_BATCH_SIZE": "x"}),
    ],
)
def test_a_secret_is_not_in_any_fault(flags, environ):
    assert CANARY not in "\n".join(faults(flags, environ))


def test_a_secret_under_a_misspelt_key_of_the_file_is_not_shown(toml):
    [fault] = faults({"config": toml(f'nats_pasword = "{CANARY}"\n')}, {})
    assert "did you mean nats_password?" in fault
    assert CANARY not in fault


def test_a_secret_loses_the_line_feed_that_its_file_ended_in():
    settings = Settings.load({}, {"RELAY_NATS_TOKEN": f"{CANARY}\n"})
    assert settings.nats_token.get_secret_value() == CANARY


@pytest.mark.parametrize("variable", ["RELAY_NATS_CREDS", "RELAY_CONFIG"])
def test_a_home_that_is_nobodys_is_one_line_with_its_remedy(variable):
    with pytest.raises(SettingsError) as refused:
        Settings.load({}, {variable: "~nobody-has-this-name/file"})
    (fault,) = refused.value.faults
    assert "write the whole path" in fault
    assert variable in fault
    assert "~nobody-has-this-name/file" in fault


def test_every_setting_is_described_once():
    public = [field.alias or name for name, field in Settings.model_fields.items()]
    assert [setting.name for setting in SETTINGS] == public
    topics = [topic for topic, _ in groupby(setting.topic for setting in SETTINGS)]
    assert topics == ["Postgres", "NATS", "Stream", "Pace", "Failure", "HTTP", "Logs"]
    assert all(setting.description.endswith(".") for setting in SETTINGS)
    assert {setting.name for setting in SETTINGS if setting.secret} == set(SECRETS)


def test_the_table_reads_back_as_the_defaults():
    table = Settings.table()
    assert ("RELAY_POLL_INTERVAL", "--poll-interval", "100ms") in [row[:3] for row in table]
    assert table[-1][:2] == ("RELAY_CONFIG", "--config")
    environ = {variable: default for variable, _, default, _ in table}
    assert Settings.load({}, environ) == Settings()


@given(st.integers(2**10, 2**30))
def test_a_size_reads_back_as_it_was_written(size):
    assert Settings(max_batch_bytes=write_size(size)).max_batch_bytes == size


@given(st.dictionaries(st.sampled_from([row[0] for row in Settings.table()[:-1]]), st.text()))
def test_any_environment_is_taken_or_refused_by_lines_of_faults(environ):
    try:
        Settings.load({}, environ)
    except SettingsError as error:
        found = error.faults
    else:
        return
    assert found
    assert not any("\n" in fault for fault in found)
