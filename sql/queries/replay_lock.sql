-- replay_lock: try to be the only one who replays. Never waits.
--
-- takes    replay_class (int): the lock's first half; the second is the outbox table's oid
-- returns  got (boolean)
-- locks    replaying, for the session
select pg_try_advisory_lock(
         %(replay_class)s::int, (quote_ident(:'schema') || '.outbox')::regclass::oid::int4
       ) as got
