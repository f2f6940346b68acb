-- pending and status: the outbox for people and monitors. Neither shows a payload or a header.
--
-- takes    schema (psql variable)
-- locks    nothing that is in use
--
-- Both read with the rights of their owner, so a monitor needs none on the tables.

-- A transaction is looked up by a range of xid and not by equality: where many rows share few xids,
-- equality makes the planner walk another index, or the table.

-- pending: committed events that are not settled yet. As long as the backlog: for people.
-- "New since the base" is written as two arms that the index (xid, id) can answer; in a window,
-- the part of it that is done goes out again.
create view :"schema".pending as
with new as (
  select o.id, o.xid, o.created_at, o.event_id, o.idempotency_key, o.subject, o.key,
         c.target, c.last_id
    from :"schema".cursor as c
    join :"schema".outbox as o on o.xid >= pg_snapshot_xmax(c.base)
   where c.id
  union all
  select o.id, o.xid, o.created_at, o.event_id, o.idempotency_key, o.subject, o.key,
         c.target, c.last_id
    from :"schema".cursor as c
   cross join lateral pg_snapshot_xip(c.base) as straggler (xid)
    join :"schema".outbox as o on o.xid between straggler.xid and straggler.xid
   where c.id
)
select n.id, n.created_at, n.event_id, n.idempotency_key, n.subject, n.key
  from new as n
 where n.target is null
    or n.id > n.last_id
    or not pg_visible_in_snapshot(n.xid, n.target);

-- status: one row. Cheap at any size: it looks at no more than 10,000 events that wait, and says by
-- backlog_is_capped that there may be more. "dead" is part of "parked". In a window it looks
-- behind last_id only: a few that committed late at a lower id are counted when the window ends.
create view :"schema".status as
with c as materialized (
  select k.* from :"schema".cursor as k where k.id
),
waiting as materialized (
  select w.created_at
    from (
      (
        select o.created_at
          from c cross join lateral (
            select o.created_at
              from :"schema".outbox as o
             where c.target is null
               and o.xid >= pg_snapshot_xmax(c.base)
             order by o.xid, o.id
             limit 10000
          ) as o
      )
      union all
      (
        select o.created_at
          from c
         cross join lateral pg_snapshot_xip(c.base) as straggler (xid)
         cross join lateral (
            select o.created_at
              from :"schema".outbox as o
             where c.target is null
               and o.xid between straggler.xid and straggler.xid
             order by o.xid, o.id
             limit 10000
          ) as o
      )
      union all
      (
        select o.created_at
          from c cross join lateral (
            select o.created_at
              from :"schema".outbox as o
             where c.target is not null
               and o.id > c.last_id
               and not pg_visible_in_snapshot(o.xid, c.base)
             order by o.id
             limit 10000
          ) as o
      )
    ) as w
   limit 10000
),
backlog as (
  select count(*) as events, min(w.created_at) as oldest_created_at from waiting as w
),
refused as (
  select count(*) as parked, count(p.dead_at) as dead from :"schema".parked as p
)
select c.epoch,
       c.holder,
       c.term_began_at,
       c.settled_at,
       c.delivered,
       c.refused,
       b.events as backlog,
       b.events >= 10000 as backlog_is_capped,
       b.oldest_created_at,
       coalesce(greatest(extract(epoch from clock_timestamp() - b.oldest_created_at), 0), 0)::float8
         as lag_seconds,
       r.parked,
       r.dead,
       c.base,
       c.target,
       c.last_id,
       c.wakes_bell,
       c.wakes_grant,
       c.wakes_poll
  from c, backlog as b, refused as r;
