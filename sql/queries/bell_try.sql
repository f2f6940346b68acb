-- bell_try: try for the doorbell's lock, so that writers must ring.
--
-- takes    bell_class (int): the lock's first half; the second is the outbox table's oid
-- returns  got (boolean)
-- locks    the bell, exclusively, for the session; never waits
select pg_try_advisory_lock(%(bell_class)s::int, (quote_ident(:'schema') || '.outbox')::regclass::oid::int4) as got
