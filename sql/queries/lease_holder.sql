-- lease_holder: who holds a lock of the outbox, and by what right?
--
-- takes    lock_class (int): the lock's first half; the second is the outbox table's oid
-- returns  pid, login and application_name of each session that holds it, the exclusive ones first;
--          pid is null for a prepared transaction
-- reads    pg_locks and pg_stat_activity
-- locks    nothing
select l.pid, a.usename::text, a.application_name
  from pg_locks as l
  left join pg_stat_activity as a on a.pid = l.pid
 where l.locktype = 'advisory'
   and l.database = (select d.oid from pg_database as d where d.datname = current_database())
   and l.classid = %(lock_class)s::bigint::oid
   and l.objid = (quote_ident(:'schema') || '.outbox')::regclass::oid
   and l.objsubid = 2
   and l.granted
   and l.pid is distinct from pg_backend_pid()
 order by l.mode <> 'ExclusiveLock', l.pid
 limit 10
