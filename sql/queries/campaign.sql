-- campaign: try for the lease, a session lock that its holder's death releases.
--
-- takes    lease_class (int): the lock's first half; the second is the outbox table's oid
-- returns  got (boolean)
-- locks    the lease, for as long as the session lives; never waits
select pg_try_advisory_lock(%(lease_class)s::int, (quote_ident(:'schema') || '.outbox')::regclass::oid::int4) as got
