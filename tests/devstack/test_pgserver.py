"""The throw-away Postgres, for every major found."""

import psycopg
import pytest

from relay import devstack
from relay.devstack.reaper import runs


@pytest.fixture
def table(database):
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table kept as select generate_series(1, 1000) as i")
    return database


def rows(dsn):
    with psycopg.connect(dsn) as connection:
        found = connection.execute("select count(*) from kept").fetchone()
    return found[0]


@pytest.fixture(scope="module")
def own_server(postgres_server):
    """A server that may be stopped: the shared one is in use elsewhere."""
    with devstack.postgres(postgres_server.installation) as server:
        yield server


@pytest.fixture
def kept(own_server):
    dsn = own_server.create_database("kept")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table kept as select generate_series(1, 1000) as i")
    yield dsn
    own_server.drop_database("kept")


def test_a_fresh_database_is_utf8_and_sorts_by_code_point(database):
    with psycopg.connect(database) as connection:
        encoding = connection.execute("show server_encoding").fetchone()
        order = connection.execute("select 'a' > 'B' and 'é' > 'z' and upper('é') = 'É'").fetchone()
    assert encoding == ("UTF8",)
    assert order == (True,)


def test_settings_reach_the_server(postgres_server):
    with psycopg.connect(postgres_server.dsn) as connection:
        found = connection.execute(
            "select current_setting('fsync'), current_setting('synchronous_commit'),"
            " current_setting('max_connections'), current_setting('listen_addresses')"
        ).fetchone()
    assert found == ("off", "on", "100", "127.0.0.1")


def test_a_database_can_be_made_from_a_template(postgres_server, table):
    template = psycopg.conninfo.conninfo_to_dict(table)["dbname"]
    copy = postgres_server.create_database("a copy of 'it'", template=template)
    assert rows(copy) == 1000
    postgres_server.drop_database("a copy of 'it'")


def test_dropping_a_database_ends_its_connections(postgres_server):
    dsn = postgres_server.create_database("dropped")
    with psycopg.connect(dsn) as connection:
        postgres_server.drop_database("dropped")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")


@pytest.mark.parametrize("end", ["fast", "immediate", "kill"])
def test_data_and_port_survive_every_kind_of_end(own_server, kept, end):
    port, pid = own_server.port, own_server.pid
    with psycopg.connect(kept) as connection:
        connection.execute("insert into kept values (0)")
        if end == "kill":
            own_server.kill()
        else:
            own_server.stop(end)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(kept)
    own_server.start()
    assert own_server.port == port
    assert own_server.pid != pid
    assert rows(kept) == 1000


def test_a_kill_leaves_no_backend_behind(own_server, kept):
    with psycopg.connect(kept) as connection:
        backend = connection.info.backend_pid
        own_server.kill()
    assert not runs(backend)
    own_server.start()


def test_starting_twice_is_an_error(own_server):
    with pytest.raises(devstack.DevstackError, match="running already"):
        own_server.start()


def test_a_stopped_server_has_no_pid(own_server):
    own_server.stop()
    own_server.stop()
    with pytest.raises(devstack.DevstackError, match="not running"):
        _ = own_server.pid
    own_server.start()


def test_a_wrong_setting_is_an_error_that_shows_what_postgres_said():
    with (
        pytest.raises(devstack.DevstackError, match="no_such_setting"),
        devstack.postgres(settings={"no_such_setting": "1"}),
    ):
        pass
