-- look: what waits behind a place, learnt without counting the table.
--
-- takes    base, target (pg_snapshot), last_id (bigint): the place; base null for the settled one;
--          at (tid, or null): where the cursor row was last; exact_up_to (bigint): count no further
--          than this; dead_blocks (boolean): a dead event blocks its key
-- returns  undelivered (exact up to exact_up_to, above it the distance in ids, which counts
--          rolled-back and settled ones in between too), lag (s, age of the oldest of them and of
--          the parked that are not dead, by the database's clock, 0 if there is none; what is replayed
--          was delivered and does not count), parked (without what is replayed) and dead (above exact_up_to what vacuum or analyze counted last), held (up to exact_up_to)
--          and held_lag, blocking (whether any parked event is not dead, or makes later ones of its
--          key queue), epoch and holder (the term that leads now)
-- reads    at most exact_up_to entries of the index (xid, id), and of the primary key in a window;
--          the like of each index of the parked
-- locks    nothing
with clock as materialized (
  select clock_timestamp() as now
),
replayed as materialized (
  select count(*) as events
    from (select from :"schema".parked as p
           where p.replay is not null and p.dead_at is null
           order by p.replay
           limit %(exact_up_to)s::bigint) as k
),
settled as materialized (
  select c.base, c.target, c.last_id, c.epoch, c.holder
    from :"schema".cursor as c
   where c.ctid = coalesce((select k.ctid from :"schema".cursor as k where k.ctid = %(at)s::tid),
                           (select k.ctid from :"schema".cursor as k))
),
c as materialized (
  select s.base, s.target, s.last_id
    from settled as s
   where %(base)s::pg_snapshot is null
  union all
  select %(base)s::pg_snapshot, %(target)s::pg_snapshot, %(last_id)s::bigint
   where %(base)s::pg_snapshot is not null
),
newer as materialized (
  (
    select o.id, o.xid, o.created_at
      from c cross join lateral (
        select o.id, o.xid, o.created_at
          from :"schema".outbox as o
         where o.xid >= pg_snapshot_xmax(c.base)
         order by o.xid, o.id
         limit %(exact_up_to)s::bigint
      ) as o
  )
  union all
  (
    select o.id, o.xid, o.created_at
      from c
     cross join lateral pg_snapshot_xip(c.base) as straggler (xid)
     cross join lateral (
        select o.id, o.xid, o.created_at
          from :"schema".outbox as o
         where o.xid = straggler.xid
         limit %(exact_up_to)s::bigint
      ) as o
     limit %(exact_up_to)s::bigint
  )
),
further as materialized (
  -- in a window, of which what the index has first may be read already
  select o.id, o.xid, o.created_at
    from c cross join lateral (
      select o.id, o.xid, o.created_at
        from :"schema".outbox as o
       where c.target is not null
         and o.id > c.last_id
       order by o.id
       limit %(exact_up_to)s::bigint
    ) as o
),
waiting as materialized (
  select n.id, n.created_at
    from newer as n, c
   where c.target is null
      or n.id > c.last_id
      or not pg_visible_in_snapshot(n.xid, c.target)
  union
  select f.id, f.created_at
    from further as f, c
   where not pg_visible_in_snapshot(f.xid, c.base)
),
held as materialized (
  select p.created_at
    from :"schema".parked as p
   where p.dead_at is null and p.held_by <> ''
   order by p.id
   limit %(exact_up_to)s::bigint
),
bounded as materialized (
  select (select count(*)
            from (select from :"schema".parked as p
                   order by p.id
                   limit %(exact_up_to)s::bigint + (select r.events from replayed as r)) as k)
           - (select r.events from replayed as r) as parked,
         (select count(*)
            from (select from :"schema".parked as p
                   where p.dead_at is not null
                   order by p.id
                   limit %(exact_up_to)s::bigint) as k) as dead
)
select case
         when (select count(*) from newer) < %(exact_up_to)s::bigint
           or (select count(*) from further) < %(exact_up_to)s::bigint
              and (select c.target is not null from c)
         then (select count(*) from waiting)
         else greatest(%(exact_up_to)s::bigint, least(
           (select max(o.id)::numeric from :"schema".outbox as o)
           - (select min(w.id) from waiting as w) + 1,
           9223372036854775807
         )::bigint)
       end as undelivered,
       greatest(coalesce(extract(epoch from clock.now - least(
         (select min(w.created_at) from waiting as w where isfinite(w.created_at)),
         (select p.created_at
            from :"schema".parked as p
           where p.dead_at is null and p.replay is null
           order by p.created_at
           limit 1)
       )), 0), 0)::float8 as lag,
       case when bounded.parked < %(exact_up_to)s::bigint then bounded.parked
            else greatest(%(exact_up_to)s::bigint, (
              select s.reltuples::bigint from pg_class as s
               where s.oid = (quote_ident(:'schema') || '.parked')::regclass
            )) end as parked,
       case when bounded.dead < %(exact_up_to)s::bigint then bounded.dead
            else greatest(%(exact_up_to)s::bigint, (
              select s.reltuples::bigint from pg_class as s
               where s.oid = (quote_ident(:'schema') || '.parked_dead')::regclass
            )) end as dead,
       (select count(*) from held) as held,
       greatest(coalesce(extract(epoch from
         clock.now - (select min(h.created_at) from held as h)), 0), 0)::float8 as held_lag,
       (select true from :"schema".parked as p
         where p.dead_at is null
         order by p.key, p.id
         limit 1) is not null
         or %(dead_blocks)s::boolean and exists (select from :"schema".fence) as blocking,
       s.epoch,
       s.holder
  from settled as s, bounded, clock
