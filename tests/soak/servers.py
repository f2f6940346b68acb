"""Faults of Postgres, of NATS and of its stream, and what producers may do to a relay."""

from typing import Literal, cast

import psycopg
from psycopg import sql

from tests.soak.broker import AWAY
from tests.soak.load import TOO_LARGE, UNCLAIMED
from tests.soak.registry import fault, rest
from tests.soak.schedule import Params
from tests.soak.world import World

# Postgres.


@fault("Postgres restarted", "postgres")
def _restart_postgres(world: World, params: Params) -> bool:
    if params["mode"] == "kill":
        world.postgres.kill()
    else:
        world.postgres.stop(cast(Literal["fast", "immediate"], params["mode"]))
    rest(params)
    world.postgres.start()
    world.recoveries.measure("Postgres")
    return True


@fault("Postgres sessions terminated")
def _terminate_sessions(world: World, params: Params) -> bool:
    name = "relay %" if params["duty"] == "all" else f"relay {params['duty']}%"
    return _tell_sessions(world, "pg_terminate_backend", name)


@fault("Postgres statements cancelled")
def _cancel_statements(world: World, _: Params) -> bool:
    return _tell_sessions(world, "pg_cancel_backend", "relay %")


def _tell_sessions(world: World, what: str, name: str) -> bool:
    query = sql.SQL("select {}(pid) from pg_stat_activity where application_name like %s")
    try:
        with world.admin() as admin:
            return bool(admin.execute(query.format(sql.Identifier(what)), (name,)).fetchall())
    except psycopg.OperationalError:
        return False


@fault("long transaction")
def _long_transaction(world: World, params: Params) -> bool:
    producer = world.single()
    drafts = [producer.draft() for _ in range(int(params["events"]))]
    return producer.write(drafts, hold=float(params["seconds"]))


@fault("table locked")
def _lock_table(world: World, params: Params) -> bool:
    table = sql.Identifier("relay", str(params["table"]))
    try:
        with world.admin() as admin, admin.transaction():
            admin.execute("set local lock_timeout = '2s'")
            admin.execute(sql.SQL("lock table {} in access exclusive mode").format(table))
            rest(params)
    except psycopg.OperationalError:
        return False
    return True


# NATS.


@fault("nats-server restarted", "nats")
def _restart_nats(world: World, params: Params) -> bool:
    if params["mode"] == "kill":
        world.nats.kill()
    else:
        world.nats.stop()
    rest(params)
    world.nats.start()
    world.recoveries.measure("NATS")
    return True


@fault("publishing forbidden", "nats")
def _forbid(world: World, params: Params) -> bool:
    world.broker.permit(publish=False)
    rest(params)
    world.broker.permit(publish=True)
    return True


@fault("stream full", "stream")
def _fill_stream(world: World, params: Params) -> bool:
    try:
        holds, _ = world.broker.held()
    except AWAY:
        return False
    return _stream_changed(world, params, max_msgs=max(1, holds))


@fault("stream takes small messages only", "stream")
def _limit_size(world: World, params: Params) -> bool:
    return _stream_changed(world, params, max_msg_size=1000)


@fault("stream without fast ingest", "stream")
def _without_fast_ingest(world: World, params: Params) -> bool:
    return _stream_changed(world, params, allow_batched=False)


def _stream_changed(world: World, params: Params, **config: object) -> bool:
    try:
        world.broker.change(**config)
    except AWAY:
        world.restore(world.broker.change)  # it may have been taken all the same
        return False
    rest(params)
    world.restore(world.broker.change)
    return True


# Producers.


@fault("burst")
def _burst(world: World, params: Params) -> bool:
    producer = world.single()
    return producer.write([producer.draft() for _ in range(int(params["events"]))])


@fault("unstorable events")
def _unstorable(world: World, params: Params) -> bool:
    """One amid others of its key, which have to wait for its death."""
    producer = world.single()
    drafts = [producer.draft(key="unstorable") for _ in range(3)]
    bad = (
        producer.draft(subject=UNCLAIMED, key="unstorable")
        if params["why"] == "no stream"
        else producer.draft(key="unstorable", size=TOO_LARGE)
    )
    return producer.write([*drafts[:1], bad, *drafts[1:]])
