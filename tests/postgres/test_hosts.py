"""Several hosts in a connection string: how long each gets, and that a term stays with one."""

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from relay.errors import SettingsError
from relay.postgres import connecting
from relay.postgres.session import Session


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGHOSTADDR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("dsn", "each", "until"),
    [
        ("", 5, 6),
        ("host=a", 5, 6),
        ("host=a,b", 2, 5),
        ("host=a,b,c,d", 2, 9),
        ("hostaddr=10.0.0.1,10.0.0.2", 2, 5),
        ("postgresql://a:1,b:2,c:3/shop", 2, 7),
        ("host=a,b connect_timeout=7", 7, 15),
        ("host=a connect_timeout=0", 5, 6),
        ("host=a,b connect_timeout=soon", 2, 5),
    ],
)
def test_every_host_gets_its_share_and_all_of_them_fit(dsn: str, each: int, until: float) -> None:
    assert connecting.patience(conninfo_to_dict(dsn), 5) == (each, until)


def test_hosts_of_the_environment_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "a,b,c")
    assert connecting.host_count({}) == 3
    assert connecting.host_count({"host": "a"}) == 1


@pytest.mark.anyio
async def test_a_term_stays_with_the_server_that_its_first_session_found(
    postgres_server: "object", database: str
) -> None:
    port = int(conninfo_to_dict(database)["port"])
    several = make_conninfo(database, host="127.0.0.1,127.0.0.1", port=f"1,{port}")
    connection = await psycopg.AsyncConnection.connect(several)
    try:
        one = conninfo_to_dict(connecting.one_host(several, connection))
        assert (one["host"], one["port"]) == ("127.0.0.1", str(port))
        assert one["dbname"] == conninfo_to_dict(database)["dbname"]
        assert connecting.one_host(database, connection) == database
    finally:
        await connection.close()


@pytest.mark.anyio
async def test_a_time_that_is_no_number_is_a_fault_of_the_settings() -> None:
    with pytest.raises(SettingsError, match="connect_timeout: 'soon'"):
        await Session.connect("host=127.0.0.1 port=1 connect_timeout=soon", "term")
