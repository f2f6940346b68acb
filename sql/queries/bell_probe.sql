-- bell_probe: would a writer stay silent now? The very test it makes.
--
-- takes    bell_class (int): the lock's first half; the second is the outbox table's oid
-- returns  got (boolean)
-- locks    the bell, shared, released with the statement; never waits
select pg_try_advisory_xact_lock_shared(%(bell_class)s::int, (quote_ident(:'schema') || '.outbox')::regclass::oid::int4) as got
