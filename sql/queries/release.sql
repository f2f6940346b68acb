-- release: let go of the lease, and wake the relays that stand by.
--
-- takes    lease_class (int): the lock's first half; the second is the outbox table's oid;
--          channel (text): on which they listen
-- returns  whether the lease was held
-- locks    NOTIFY's, through a commit that flushes nothing
select pg_advisory_unlock(%(lease_class)s::int, (quote_ident(:'schema') || '.outbox')::regclass::oid::int4) as held,
       pg_notify(%(channel)s::text, '')::text as told
