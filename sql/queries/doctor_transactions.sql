-- doctor_transactions: the oldest that hold back vacuum, and their own events.
--
-- takes    nothing
-- returns  kind (text: session, prepared or slot), name (text: pid, gid, or the slot's name), login,
--          application, state, age (s; null if this login may not see it); the oldest first, those of
--          unknown age last, at most 10
-- reads    pg_stat_activity, pg_prepared_xacts and pg_replication_slots
-- locks    nothing
--
-- The relay's own sessions never stay in a transaction, and are left out where they can be told.
with holding as (
  select 'session' as kind, a.pid::text as name, a.usename::text as login,
         a.application_name as application, a.state,
         extract(epoch from clock_timestamp() - a.xact_start)::float8 as age
    from pg_stat_activity as a
   where a.datname = current_database()
     and a.pid <> pg_backend_pid()
     and (a.backend_xmin is not null or a.backend_xid is not null)
     and a.backend_type is distinct from 'autovacuum worker'
     and a.application_name is distinct from 'relay pool'
     and a.application_name is distinct from 'relay reader'
  union all
  select 'prepared', p.gid, p.owner::text, null, 'prepared',
         extract(epoch from clock_timestamp() - p.prepared)::float8
    from pg_prepared_xacts as p
   where p.database = current_database()
  union all
  select 'slot', s.slot_name::text, null, null,
         case when s.active then 'active' else 'inactive' end, null
    from pg_replication_slots as s
   where s.xmin is not null
     and not s.active
)
select h.kind, h.name, h.login, h.application, h.state, h.age
  from holding as h
 order by h.age desc nulls last, h.name
 limit 10
