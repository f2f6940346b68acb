"""Bugs of replays, and of dead events that go back to their place."""

from tests.bugs.bug import Bug

CONTRACT = "tests/contract/test_postgres.py"
REPLAY = "tests/postgres/test_replay.py"
COUNTS = "tests/postgres/test_replay_counts.py"
ENGINE = "tests/engine/test_replays.py"

BUGS = (
    Bug(
        "a key is let go between two chunks of its replay",
        "sql/functions/mark_replay.sql",
        "           when mark_replay.goes_on and m.place = many\n",
        "           when false\n",
        (REPLAY,),
    ),
    Bug(
        "a key that is held for the rest of its replay is never let go",
        "sql/functions/mark_replay.sql",
        "             then clock_timestamp() + interval '20 s'\n",
        "             then clock_timestamp() + interval '20 days'\n",
        (REPLAY,),
    ),
    Bug(
        "the next chunk leaves the last event of the one before for its twenty seconds",
        "sql/functions/mark_replay.sql",
        "   where p.id = this.place\n",
        "   where p.id = this.place and many = 0\n",
        (REPLAY,),
    ),
    Bug(
        "a replay that goes on begins where it began",
        "sql/functions/mark_replay.sql",
        "         place = case when many = 0 then r.place else mark_replay.ids[many] end,\n",
        "         place = r.place,\n",
        (REPLAY,),
    ),
    Bug(
        "a replay takes what is not delivered",
        "sql/queries/replay_look.sql",
        "         pg_visible_in_snapshot(o.xid, p.base)\n         and ",
        "         true or ",
        (REPLAY,),
    ),
    Bug(
        "a replay takes what is delivered behind its look",
        "relay/postgres/replay.py",
        "            await self._session.execute(_ONE_SNAPSHOT)\n",
        "",
        (COUNTS,),
    ),
    Bug(
        "a replay counts the events of another one as its own",
        "sql/queries/replay_left.sql",
        "count(*) filter (where r.replay = %(replay)s::bigint) as own",
        "count(*) as own",
        (COUNTS,),
    ),
    Bug(
        "a replay that goes on takes nothing for handed over",
        "relay/postgres/replay.py",
        "        await self._count(replay)\n        ended = ",
        "        ended = ",
        (COUNTS,),
    ),
    Bug(
        "a replay takes dead events along",
        "sql/queries/replay_list.sql",
        " where not l.parked\n   and (",
        " where (",
        (REPLAY,),
    ),
    Bug(
        "retention takes the rows of a replay under way",
        "sql/queries/prune.sql",
        "c.id between r.first_id and r.last_id)\n",
        "c.id < r.first_id)\n",
        (REPLAY,),
    ),
    Bug(
        "a replayed message bears the id that the stream remembers",
        "sql/queries/due.sql",
        "case when not d.same_id then d.replay end),\n",
        "null),\n",
        (CONTRACT,),
    ),
    Bug(
        "what is replayed counts as parked",
        "sql/queries/look.sql",
        "           - (select r.events from replayed as r) as parked,\n",
        "           as parked,\n",
        (CONTRACT,),
    ),
    Bug(
        "a refused replay is tried again, and its key waits",
        "relay/core/disposition.py",
        "    dead = dead or once\n",
        "",
        (ENGINE,),
    ),
    Bug(
        "two people replay at once",
        "relay/postgres/replay.py",
        "        if not got:\n",
        "        if got is None:\n",
        (REPLAY,),
    ),
    Bug(
        "a key's dead events are due before the relay holds the key back",
        "sql/functions/retry_dead.sql",
        "clock_timestamp() + make_interval(secs => retry_dead.pause),\n",
        "clock_timestamp(),\n",
        ("tests/postgres/test_decisions.py",),
    ),
)
