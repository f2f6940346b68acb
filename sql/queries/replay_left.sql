-- replay_left: how many events of replays the relay that leads has still to publish.
--
-- takes    replay (bigint); lease_class (int): the lease's first half; the second is the outbox
--          table's oid
-- returns  events (bigint, at most 100,000): of all replays; own (bigint): of this one; led (boolean):
--          whether a session holds the lease
-- reads    the index of the replayed, which are never many, and pg_locks. Without an order the planner
--          would walk the index of all that is live
-- locks    nothing
select k.events, k.own,
       exists (
         select
           from pg_locks as l
          where l.locktype = 'advisory'
            and l.database = (select d.oid from pg_database as d where d.datname = current_database())
            and l.classid = %(lease_class)s::bigint::oid
            and l.objid = (quote_ident(:'schema') || '.outbox')::regclass::oid
            and l.objsubid = 2
            and l.mode = 'ExclusiveLock'
            and l.granted
       ) as led
  from (
    select count(*) as events, count(*) filter (where r.replay = %(replay)s::bigint) as own
      from (select p.replay
              from :"schema".parked as p
             where p.replay is not null and p.dead_at is null
             order by p.replay
             limit 100000) as r
  ) as k
