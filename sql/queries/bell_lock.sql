-- bell_lock: try for the lock that makes writers ring. Never waits.
--
-- takes    bell_class (int): the lock's first half; the second is the outbox table's oid
-- returns  got (boolean); false if a writer is just asking, or somebody else holds it
-- locks    the bell, for the session
select pg_try_advisory_lock(
         %(bell_class)s::int, (quote_ident(:'schema') || '.outbox')::regclass::oid::int4
       ) as got
