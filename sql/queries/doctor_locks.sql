-- doctor_locks: who locks the outbox's tables against the relay?
--
-- takes    nothing
-- returns  relation (text), mode (text), pid, login and application (of a session; pid is null for a
--          prepared transaction) and age (s of its transaction; null if it may not be seen); the
--          oldest first, at most 10
-- reads    pg_locks, pg_stat_activity and the catalogs
-- locks    nothing
select c.relname::text as relation, l.mode, l.pid, a.usename::text as login,
       a.application_name as application,
       extract(epoch from clock_timestamp() - a.xact_start)::float8 as age
  from pg_locks as l
  join pg_class as c on c.oid = l.relation
  join pg_namespace as n on n.oid = c.relnamespace and n.nspname = :'schema'
  left join pg_stat_activity as a on a.pid = l.pid
 where l.locktype = 'relation'
   and l.database = (select d.oid from pg_database as d where d.datname = current_database())
   and l.granted
   and l.pid is distinct from pg_backend_pid()
   and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
 order by age desc nulls first, l.pid
 limit 10
