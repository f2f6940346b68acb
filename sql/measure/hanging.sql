-- hanging: end the relay's own sessions that hold a lock in a schema that is to go.
--
-- takes    schema (psql variable)
-- returns  nothing of use, a row for each session
-- reads    pg_locks and pg_stat_activity
-- locks    nothing
--
-- A commit that waits for a synchronous standby keeps its locks, whatever has become of its client.
select pg_terminate_backend(l.pid)
  from pg_locks as l
  join pg_class as c on c.oid = l.relation
  join pg_namespace as n on n.oid = c.relnamespace
  join pg_stat_activity as a on a.pid = l.pid
 where n.nspname = :'schema'
   and l.database = (select d.oid from pg_database as d where d.datname = current_database())
   and l.pid <> pg_backend_pid()
   and a.application_name like 'relay %'
