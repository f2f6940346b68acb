"""Faults of Postgres, of NATS and of its stream, and what producers may do to a relay."""

from functools import partial
from typing import Literal, cast

import psycopg
from psycopg import sql

from tests.soak.broker import AWAY
from tests.soak.load import THEIRS, TOO_LARGE, UNCLAIMED
from tests.soak.registry import fault, rest
from tests.soak.schedule import Params
from tests.soak.world import World

_SCHEMA = 3
_MOST_LOUD = 500

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


@fault("row security on the outbox", "outbox")
def _hide_rows(world: World, params: Params) -> bool:
    """A relay that begins meanwhile ends with 3: a person has to change something."""
    world.fleet.excused.add(_SCHEMA)
    try:
        world.hide_rows(hide=True)
    except psycopg.OperationalError:
        return False
    rest(params)
    world.restore(partial(world.hide_rows, hide=False))
    return True


@fault("NOTIFY queue above half", "NOTIFY queue")
def _fill_queue(world: World, params: Params) -> bool:
    """Another application listens, and takes nothing: so what it was told can't be forgotten."""
    try:
        with world.admin() as deaf, world.admin() as loud:
            for statement in ("listen soak", "begin", "select 1"):
                deaf.execute(statement)
            for _ in range(_MOST_LOUD):
                loud.execute("select pg_notify('soak', repeat(md5(random()::text), 200))")
                row = loud.execute("select pg_notification_queue_usage() > 0.5").fetchone()
                if row and row[0]:
                    rest(params)
                    return True
    except psycopg.OperationalError:
        return False
    return False


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


@fault("lying answers", "liar")
def _lie(world: World, params: Params) -> bool:
    return world.broker.lie(float(params["seconds"]))


@fault("another application's message id")
def _foreign_id(world: World, _: Params) -> bool:
    """Its event is never stored: it has to be found, kept and said."""
    producer = world.single()
    taken = f"{THEIRS}{producer.draft().committed.event_id}"
    try:
        world.broker.publish_theirs(taken)
    except AWAY:
        return False
    drafts = [producer.draft(key="taken") for _ in range(3)]
    drafts[1] = producer.draft(key="taken", message_id=taken)
    drafts[2] = producer.draft(key="taken")
    return producer.write(drafts)


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


@fault("rows of another cluster")
def _foreign(world: World, params: Params) -> bool:
    """They wait for the next term, which takes them in before it reads."""
    producer = world.single()
    drafts = [producer.draft(key="foreign") for _ in range(int(params["events"]))]
    return producer.write(drafts, foreign=True)


@fault("unstorable events")
def _unstorable(world: World, params: Params) -> bool:
    """One amid others of its key, which have to wait for its death; or one that lives on."""
    producer = world.single()
    drafts = [producer.draft(key="unstorable") for _ in range(3)]
    if params["why"] == "no stream":
        return producer.write([*drafts, producer.draft(subject=UNCLAIMED, key="unstorable")])
    bad = producer.draft(key="unstorable", size=TOO_LARGE)
    return producer.write([*drafts[:1], bad, *drafts[1:]])
