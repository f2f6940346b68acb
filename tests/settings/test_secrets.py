"""Secrets: they can come from files, and are never shown."""

import errno
import os
from itertools import groupby
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from relay.errors import SettingsError
from relay.settings import Settings
from relay.settings.model import SETTINGS
from tests.settings.faults import CANARY, faults

SECRETS = {
    "postgres_dsn": f"host=h password={CANARY}",
    "postgres_password": CANARY,
    "nats_nkey_seed": CANARY,
    "nats_password": CANARY,
    "nats_token": CANARY,
    "http_token": CANARY,
}


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
    missing = "/no/such/file"  # short: a long value is cut
    environ = {"RELAY_NATS_TOKEN_FILE": missing, "RELAY_HTTP_TOKEN_FILE": "/"}
    found = faults({}, environ)
    assert found == [
        (
            f"nats_token_file = '{missing}' (environment RELAY_NATS_TOKEN_FILE) names a file that"
            f" can't be read: {os.strerror(errno.ENOENT)}"
        ),
        (
            f"http_token_file = '/' (environment RELAY_HTTP_TOKEN_FILE) names a file that"
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
    settings = Settings(
        **{name: SECRETS[name]}, **({"nats_user": "u"} if name == "nats_password" else {})
    )
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


@pytest.mark.parametrize(
    "dsn",
    ["host=h dbname=d", "postgresql://u@h/d", "postgresql://u:old@h/d", "password='o l d'", ""],
)
def test_postgres_password_stands_in_the_place_of_the_connection_string_s_own(dsn, secret_file):
    named = {"RELAY_POSTGRES_DSN": dsn, "RELAY_POSTGRES_PASSWORD": f" '\\{CANARY}"}
    found = conninfo_to_dict(Settings.load({}, named).conninfo)
    assert found == conninfo_to_dict(dsn) | {"password": f" '\\{CANARY}"}


def test_a_connection_string_in_a_file_without_a_password_is_handed_on_as_it_is(secret_file):
    for dsn in ("host=h dbname=d", "postgresql://u@h/d", "postgresql://u@h/d?nonsense=1"):
        named = {"RELAY_POSTGRES_DSN_FILE": secret_file(dsn)}
        assert Settings.load({}, named).conninfo == dsn


def test_a_secret_that_can_be_read_once_is_read_once():
    reading, writing = os.pipe()
    os.write(writing, CANARY.encode())
    os.close(writing)
    settings = Settings.load({}, {"RELAY_NATS_TOKEN_FILE": f"/dev/fd/{reading}"})
    assert settings.nats_token.get_secret_value() == CANARY
    assert settings.secret_files == {}
    os.close(reading)


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
