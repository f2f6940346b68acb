-- status: the status view, and whether a relay holds the lease at this moment.
--
-- takes    lease_class (int): the lease's first half; the second is the outbox table's oid
-- returns  one row, or none if the cursor row is gone; led (boolean), then the view's columns,
--          with snapshots as text
-- reads    what the view reads, and pg_locks
-- locks    nothing
select exists (
         select
           from pg_locks as l
          where l.locktype = 'advisory'
            and l.database = (select d.oid from pg_database as d where d.datname = current_database())
            and l.classid = %(lease_class)s::bigint::oid
            and l.objid = (quote_ident(:'schema') || '.outbox')::regclass::oid
            and l.objsubid = 2
            and l.mode = 'ExclusiveLock'
            and l.granted
       ) as led,
       s.epoch,
       s.holder,
       s.term_began_at,
       s.settled_at,
       s.delivered,
       s.refused,
       s.backlog,
       s.backlog_is_capped,
       s.oldest_created_at,
       s.lag_seconds,
       s.parked,
       s.dead,
       s.held,
       s.held_lag_seconds,
       s.base::text as base,
       s.target::text as target,
       s.last_id,
       s.reported_at,
       s.wakes_bell,
       s.wakes_poll,
       s.lag_breaker,
       s.bus_breaker,
       s.repair_stream,
       s.repair_began_at,
       s.repair_ended_at,
       s.repair_events,
       s.repair_remembered,
       s.gone_from,
       s.gone_to
  from :"schema".status as s
