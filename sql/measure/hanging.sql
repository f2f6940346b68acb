-- hanging: end the relay's own sessions that hold a lock on a schema that is to go.
--
-- takes    schema (psql variable)
-- returns  nothing of use, a row for each lock
-- reads    pg_locks and pg_stat_activity
-- locks    nothing
--
-- A commit that waits for a synchronous standby keeps its locks, whatever has become of its client.
-- What it has made can't be seen meanwhile, but the lock on the schema can.
select pg_terminate_backend(l.pid)
  from pg_locks as l
  join pg_namespace as n on n.nspname = :'schema'
  join pg_stat_activity as a on a.pid = l.pid
 where l.database = (select d.oid from pg_database as d where d.datname = current_database())
   and (l.classid = 'pg_namespace'::regclass and l.objid = n.oid
        or l.relation in (select c.oid from pg_class as c where c.relnamespace = n.oid))
   and l.pid <> pg_backend_pid()
   and a.application_name like 'relay %'
