"""What Postgres says to who may not come in, told apart from a Postgres that is away."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from relay import devstack
from relay.errors import StoreLoginRefused, StoreOutage
from relay.postgres.session import Session
from relay.settings import Settings
from tests.postgres.databases import rules_before

pytestmark = pytest.mark.anyio

RULES = """\
host all login_with_password 127.0.0.1/32 scram-sha-256
host all login_rejected 127.0.0.1/32 reject
"""


@pytest.fixture(scope="module")
def guarded(postgres_server: devstack.Postgres) -> Iterator[str]:
    """The connection string of a server that asks one login for a password and rejects another."""
    with psycopg.connect(postgres_server.dsn, autocommit=True) as person:
        person.execute("create role login_with_password login password 'right'")
        person.execute("create role login_rejected login")
        person.execute("create role login_not_allowed nologin")
        with rules_before(person, RULES):
            yield postgres_server.dsn
        for role in ("with_password", "rejected", "not_allowed"):
            person.execute(f"drop role login_{role}")


@pytest.mark.parametrize(
    ("login", "said"),
    [
        ({"user": "login_with_password", "password": "wrong"}, "password authentication failed"),
        ({"user": "login_with_password", "password": ""}, "no password supplied"),
        ({"user": "login_rejected"}, "pg_hba.conf rejects"),
        ({"user": "login_not_allowed"}, "not permitted to log in"),
        ({"user": "nobody_made_it"}, 'role "nobody_made_it" does not exist'),
        ({"dbname": "nobody_made_it"}, 'database "nobody_made_it" does not exist'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_refused_login_is_told_apart_from_an_absent_server(
    guarded: str, login: dict[str, str], said: str
) -> None:
    with pytest.raises(StoreLoginRefused, match=said):
        await Session.connect(make_conninfo(guarded, **login), "tester")


async def test_the_right_password_is_let_in(guarded: str) -> None:
    login = make_conninfo(guarded, user="login_with_password", password="right")
    async with await Session.connect(login, "tester") as session:
        assert await session.row(psycopg.sql.SQL("select 1").format()) == (1,)


async def test_an_absent_server_is_no_refused_login(guarded: str) -> None:
    with pytest.raises(StoreOutage) as outage:
        await Session.connect(make_conninfo(guarded, port="1"), "tester")
    assert not isinstance(outage.value, StoreLoginRefused)


@pytest.mark.parametrize("form", ["PASSWORD", "DSN"])
async def test_a_password_that_is_changed_while_we_run_is_read_anew_from_its_file(
    guarded: str, tmp_path: Path, form: str
) -> None:
    """And from nowhere else: the connection string in the settings stays as it is."""
    login = make_conninfo(guarded, user="login_with_password", password="right")
    file, environ = tmp_path / "secret", {"RELAY_POSTGRES_DSN": login}

    def say(password: str) -> None:
        whole = make_conninfo(login, password=password, application_name="x")
        file.write_text(f"{password if form == 'PASSWORD' else whole}\n")

    say("right")
    environ = {f"RELAY_POSTGRES_{form}_FILE": str(file)} | (environ if form == "PASSWORD" else {})
    settings = Settings.load({}, environ)
    async with await Session.connect(settings.conninfo, "tester"):
        pass
    with psycopg.connect(guarded, autocommit=True) as person:
        person.execute("alter role login_with_password password 'newer: a b''c\\'")
        with pytest.raises(StoreLoginRefused, match="password authentication failed"):
            await Session.connect(settings.conninfo, "tester")
        say("newer: a b'c\\")
        async with await Session.connect(settings.conninfo, "tester"):
            pass
        file.write_text("")
        with pytest.raises(StoreLoginRefused, match="password"):
            await Session.connect(settings.conninfo, "tester")
        file.unlink()
        with pytest.raises(
            StoreLoginRefused, match=f"no password can be read from {file}: No such"
        ):
            await Session.connect(settings.conninfo, "tester")
        person.execute("alter role login_with_password password 'right'")
