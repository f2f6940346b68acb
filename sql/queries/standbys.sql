-- standbys: the sessions in which other relays try for this outbox's lease.
--
-- takes    lease_class (int): the lease's first half
-- returns  pid, address (text; null over a Unix socket, or if this login may not see it) and since
--          (timestamptz), the longest standing first, at most 20
-- reads    pg_stat_activity and pg_locks
-- locks    nothing
--
-- A candidate's last statement names its schema, which tells two outboxes of one database apart;
-- of another login's session the statement is hidden, and it is believed to be one of ours.
select a.pid, host(a.client_addr) as address, a.backend_start as since
  from pg_stat_activity as a
 where a.datname = current_database()
   and a.application_name = 'relay term'
   and (coalesce(a.query, '') in ('', '<insufficient privilege>')
        or strpos(a.query, quote_literal(:'schema')) > 0)
   and not exists (
         select
           from pg_locks as l
          where l.pid = a.pid
            and l.locktype = 'advisory'
            and l.classid = %(lease_class)s::bigint::oid
            and l.granted
       )
 order by a.backend_start, a.pid
 limit 20
