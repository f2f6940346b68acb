"""Settings: which values and combinations are taken, and how they are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from relay.errors import SettingsError
from relay.settings import Settings
from relay.settings.kinds import write_size
from tests.settings.faults import faults


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
        ("cloudevents_source", "the shop", "with other characters as %XX"),
        ("cloudevents_source", "/größe", "is no URI reference"),
        ("cloudevents_source", "/50%", "is no URI reference"),
        ("cloudevents_type", "{subject.__class__}", "no other braces"),
        ("cloudevents_subject", "{id}", "no other braces"),
        ("cloudevents_subject", "a\nb", "is no template"),
        ("cloudevents_subject", "{subject}", "set cloudevents_source, too"),
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
        ("nats_url", "nats://a:port", "has no port from 1 to 65535 in URL 1"),
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
        (
            {"cloudevents_source": "/a", "cloudevents_type": "x.{key}"},
            "names a key, which some events lack, and every CloudEvent has a type",
        ),
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


@pytest.mark.parametrize("prefix", ["", "shop:", "x" * 63 + ":", "Relay/2-b:"])
def test_a_prefix_of_message_ids_ends_in_its_only_colon(prefix):
    assert Settings(message_id_prefix=prefix).message_id_prefix == prefix


@pytest.mark.parametrize("domain", ["hub", "$JS.hub.API", "my.prefix.API."])
def test_a_jetstream_domain_is_its_name_or_its_api(domain):
    assert Settings.load({"nats_js_domain": domain}, {}).nats_js_domain == domain


def test_the_table_reads_back_as_the_defaults():
    table = Settings.table()
    assert ("RELAY_POLL_INTERVAL", "--poll-interval", "100ms") in [row[:3] for row in table]
    assert table[-1][:2] == ("RELAY_CONFIG", "--config")
    environ = {variable: default for variable, _, default, _ in table}
    assert Settings.load({}, environ) == Settings()


@given(st.integers(2**10, 2**30))
def test_a_size_reads_back_as_it_was_written(size):
    assert Settings(max_batch_bytes=write_size(size)).max_batch_bytes == size


@pytest.mark.parametrize("name", ["max_attempts", "batch_size", "max_batch_size"])
def test_true_is_no_number(name):
    with pytest.raises(SettingsError, match=r"True .* is not a whole number: write digits only"):
        Settings(**{name: True})
