"""Several hosts in a connection string: how long each gets, and that a term stays with one."""

import anyio
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from relay.errors import SettingsError, StoreOutage, TermLost
from relay.postgres import connecting, hosts
from relay.postgres.outbox import PostgresOutbox
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


@pytest.mark.parametrize(
    ("dsn", "each"),
    [
        ("host=a", [("a", None, None)]),
        ("host=a,b port=5", [("a", None, "5"), ("b", None, "5")]),
        ("postgresql://u:p%40@a:1,b/shop", [("a", None, "1"), ("b", None, "")]),
        ("hostaddr=10.0.0.1,10.0.0.2", [(None, "10.0.0.1", None), (None, "10.0.0.2", None)]),
    ],
)
def test_each_host_has_a_connection_string_with_all_the_rest(
    dsn: str, each: list[tuple[str | None, ...]]
) -> None:
    found = [conninfo_to_dict(one) for one in hosts.one_by_one(dsn)]
    assert [(one.get("host"), one.get("hostaddr"), one.get("port")) for one in found] == each
    given = conninfo_to_dict(dsn)
    for keyword in ("user", "password", "dbname"):
        assert all(one.get(keyword) == given.get(keyword) for one in found)


async def asked(dsn: str) -> tuple[int, int]:
    async with await Session.connect(dsn, "test") as session:
        return await hosts.Hosts(dsn, "relay")._asked(session)


@pytest.mark.anyio
async def test_a_server_below_a_timeline_that_was_seen_is_not_led_at(outbox_dsn: str) -> None:
    """R-PHANTOM: what is written to an old primary is lost when that is taken away."""
    outbox = PostgresOutbox(outbox_dsn, "relay", page_bytes=1024)
    cluster, timeline = await asked(outbox_dsn)
    outbox._hosts._highest[cluster] = timeline + 1
    try:
        with pytest.raises(StoreOutage, match="is an old primary, on timeline 1: its cluster"):
            await outbox.campaign("one")
    finally:
        await outbox.close()


@pytest.mark.anyio
async def test_a_term_ends_when_another_host_is_seen_on_a_higher_timeline(
    outbox_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "LOOK_EVERY", 0.05)
    given = conninfo_to_dict(outbox_dsn)
    two = make_conninfo(outbox_dsn, host=f"{given['host']},127.0.0.2", port=given["port"])
    outbox = PostgresOutbox(two, "relay", page_bytes=1024)
    store = await outbox.campaign("one")
    assert store is not None
    cluster, timeline = await asked(outbox_dsn)
    try:
        outbox._hosts._highest[cluster] = timeline + 1
        with anyio.fail_after(10), pytest.raises(TermLost, match="was promoted, to timeline"):
            await store.watch()
    finally:
        await store.close()
        await outbox.close()


@pytest.mark.anyio
async def test_a_term_whose_reader_reached_another_server_does_not_begin(
    outbox_dsn: str, one_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-LOSS: its snapshots would be settled where they mean nothing."""
    outbox = PostgresOutbox(outbox_dsn, "relay", page_bytes=1024)
    connect = outbox._connect

    async def astray(duty: str, options: dict[str, str]) -> Session:
        outbox._server = one_dsn if duty == "reader" else outbox_dsn
        return await connect(duty, options)

    monkeypatch.setattr(outbox, "_connect", astray)
    try:
        with pytest.raises(StoreOutage, match="began: the reader's session reached another server"):
            await outbox.campaign("one")
    finally:
        await outbox.close()


@pytest.mark.anyio
async def test_a_new_candidacy_does_not_sit_out_the_pause_of_a_pool_that_failed(
    outbox_dsn: str,
) -> None:
    """psycopg_pool waits a second and more between its tries."""
    outbox = PostgresOutbox(outbox_dsn, "relay", page_bytes=1024)
    pools = [await outbox.pool._opened()]
    for holder in ("one", "other"):
        store = await outbox.campaign(holder)
        assert store is not None
        assert await store.streams() == {}
        pools.append(await outbox.pool._opened())
        await store.close()
    assert len(set(pools)) == len(pools)
    await outbox.close()
