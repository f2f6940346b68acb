-- status: how the outbox stands, as of the last settlement. One row, without payload and headers.
--
-- takes    schema (psql variable)
-- columns  epoch, holder, term_began_at, settled_at, base, target, last_id: the cursor's;
--          backlog: committed events behind the cursor, at most 10,000; backlog_is_capped: there
--          may be more; oldest_created_at, lag_seconds: of the oldest event that is not delivered
--          and not dead, whoever it waits behind; parked (the dead among them; what is replayed was
--          delivered, and is not), dead, held;
--          held_lag_seconds: of the oldest event that an outage holds up; reported_at, delivered,
--          refused, wakes_bell, wakes_poll, lag_breaker, bus_breaker: what the leader last said of
--          itself in this term; repair_stream, repair_began_at, repair_ended_at (null while it is
--          under way), repair_events, repair_remembered, gone_from, gone_to: of the last repair
-- reads    at most 10,000 entries of each index that it asks, whatever the size
-- locks    nothing
--
-- Reads with its owner's rights, so a monitor needs none on the tables.
--
-- What waits is found by the index of what is new since the base; while a backlog is paged through,
-- also by the primary key behind the last id read. Each arm is bounded by the rows looked at, so
-- that a late committer at a low id does not make it walk what is delivered. Of more than 10,000
-- parked events, parked, dead and held are what vacuum or analyze counted last.
set search_path = pg_catalog, pg_temp;

create or replace view :"schema".status as
with c as materialized (
  select k.* from :"schema".cursor as k where k.id
),
waiting as materialized (
  select o.id, o.xid, o.created_at
    from c cross join lateral (
      select o.id, o.xid, o.created_at
        from :"schema".outbox as o
       where o.xid >= pg_snapshot_xmax(c.base)
       order by o.xid, o.id
       limit 10000
    ) as o
   where c.target is null
      or o.id > c.last_id
      or not pg_visible_in_snapshot(o.xid, c.target)
  union all
  select o.id, o.xid, o.created_at
    from c
   cross join lateral (
      select late.*
        from pg_snapshot_xip(c.base) as straggler (xid)
       cross join lateral (
         select o.id, o.xid, o.created_at
           from :"schema".outbox as o
          where o.xid between straggler.xid and straggler.xid
          order by o.xid, o.id
          limit 10000
       ) as late
       limit 10000
   ) as o
   where c.target is null
      or o.id > c.last_id
      or not pg_visible_in_snapshot(o.xid, c.target)
  union all
  select o.id, o.xid, o.created_at
    from c cross join lateral (
      select o.id, o.xid, o.created_at
        from :"schema".outbox as o
       where c.target is not null
         and o.id > c.last_id
       order by o.id
       limit 10000
    ) as o
   where not pg_visible_in_snapshot(o.xid, c.base)
),
backlog as (
  select least(count(distinct w.id), 10000) as events,
         -- of what can be read: an owner may have written anything
         min(w.created_at) filter (where w.created_at
           between '0001-01-01 UTC'::timestamptz and '9999-12-31 UTC'::timestamptz)
           as oldest_created_at
    from waiting as w
),
replayed as materialized (
  select count(*) as events
    from (select from :"schema".parked as p
           where p.replay is not null and p.dead_at is null
           order by p.replay
           limit 10000) as k
),
bounded as (
  select (select count(*)
            from (select from :"schema".parked as p order by p.id
                   limit 10000 + (select r.events from replayed as r)) as k)
           - (select r.events from replayed as r) as parked,
         (select count(*)
            from (select from :"schema".parked as p
                   where p.dead_at is not null order by p.id limit 10000) as k) as dead,
         (select count(*)
            from (select from :"schema".parked as p
                   where p.dead_at is null and p.held_by <> '' order by p.id limit 10000) as k)
           as held,
         (select p.created_at from :"schema".parked as p
           where p.dead_at is null and p.replay is null
           order by p.created_at limit 1) as oldest_parked_at,
         (select p.created_at from :"schema".parked as p
           where p.dead_at is null and p.held_by <> '' order by p.id limit 1) as oldest_held_at
),
estimate as (
  select s.relname, s.reltuples::bigint as events
    from pg_index as i
    join pg_class as s on s.oid = i.indexrelid
   where i.indrelid = (select p.tableoid from :"schema".parked as p limit 1)
),
refused as (
  select case when b.parked < 10000 then b.parked
              else greatest(10000, (select e.events from estimate as e
                                     where e.relname = 'parked_pkey')) end as parked,
         case when b.dead < 10000 then b.dead
              else greatest(10000, (select e.events from estimate as e
                                     where e.relname = 'parked_dead')) end as dead,
         case when b.held < 10000 then b.held
              else greatest(10000, (select e.events from estimate as e
                                     where e.relname = 'parked_held')) end as held,
         b.oldest_parked_at,
         b.oldest_held_at
    from bounded as b
)
select c.epoch,
       c.holder,
       c.term_began_at,
       c.settled_at,
       b.events as backlog,
       b.events >= 10000 as backlog_is_capped,
       least(b.oldest_created_at, p.oldest_parked_at) as oldest_created_at,
       coalesce(greatest(extract(
         epoch from clock_timestamp() - least(b.oldest_created_at, p.oldest_parked_at)), 0), 0
       )::float8 as lag_seconds,
       p.parked,
       p.dead,
       p.held,
       coalesce(greatest(extract(epoch from clock_timestamp() - p.oldest_held_at), 0), 0)::float8
         as held_lag_seconds,
       c.base,
       c.target,
       c.last_id,
       r.reported_at,
       coalesce(r.delivered, 0) as delivered,
       coalesce(r.refused, 0) as refused,
       coalesce(r.wakes_bell, 0) as wakes_bell,
       coalesce(r.wakes_poll, 0) as wakes_poll,
       r.lag_breaker,
       r.bus_breaker,
       t.stream as repair_stream,
       t.began_at as repair_began_at,
       t.ended_at as repair_ended_at,
       t.repaired as repair_events,
       t.remembered as repair_remembered,
       t.gone_from,
       t.gone_to
  from c
 cross join backlog as b
 cross join refused as p
  left join :"schema".report as r on r.epoch = c.epoch
  left join lateral (select * from :"schema".repair as p order by p.id desc limit 1) as t on true;
