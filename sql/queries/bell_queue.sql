-- bell_queue: wait for the doorbell's lock, at most the session's lock_timeout.
--
-- takes    bell_class (int): the lock's first half; the second is the outbox table's oid
-- returns  nothing of interest once granted; error 55P03 after lock_timeout
-- locks    the bell, exclusively, for the session; waits behind every silent transaction
select pg_advisory_lock(%(bell_class)s::int, (quote_ident(:'schema') || '.outbox')::regclass::oid::int4) as got
