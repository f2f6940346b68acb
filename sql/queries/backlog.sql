-- backlog: what waits, learnt without counting the table.
--
-- takes    exact_up_to (bigint): count no further than this; dead_blocks (boolean): a dead event
--          blocks its key
-- returns  undelivered (exact up to exact_up_to, above it the distance in ids, which counts
--          rolled-back and settled ones in between too), lag (s, age of the oldest of them and of
--          those that an outage holds up, by the database's clock, 0 if there is none), parked and
--          dead (above exact_up_to what vacuum or analyze counted last), blocking (whether any
--          parked event makes later ones of its key queue), epoch (the term that leads now)
-- reads    at most exact_up_to entries of the index (xid, id), or of the primary key in a window;
--          the like of two indexes of the parked
-- locks    nothing
with c as materialized (
  select base, target, last_id, epoch from :"schema".cursor
),
waiting as materialized (
  (
    select o.id, o.created_at
      from c cross join lateral (
        select o.id, o.created_at
          from :"schema".outbox as o
         where c.target is null
           and o.xid >= pg_snapshot_xmax(c.base)
         order by o.xid, o.id
         limit %(exact_up_to)s::bigint
      ) as o
  )
  union all
  (
    select o.id, o.created_at
      from c
     cross join lateral pg_snapshot_xip(c.base) as straggler (xid)
     cross join lateral (
        select o.id, o.created_at
          from :"schema".outbox as o
         where c.target is null
           and o.xid = straggler.xid
         limit %(exact_up_to)s::bigint
      ) as o
     limit %(exact_up_to)s::bigint
  )
  union all
  (
    select o.id, o.created_at
      from c cross join lateral (
        select o.id, o.created_at
          from :"schema".outbox as o
         where c.target is not null
           and o.id > c.last_id
           and not pg_visible_in_snapshot(o.xid, c.base)
         order by o.id
         limit %(exact_up_to)s::bigint
      ) as o
  )
)
select case
         when (select count(*) from waiting) < %(exact_up_to)s::bigint
         then (select count(*) from waiting)
         else greatest(
           %(exact_up_to)s::bigint,
           (select max(o.id) from :"schema".outbox as o) - (select min(w.id) from waiting as w) + 1
         )
       end as undelivered,
       greatest(coalesce(extract(epoch from clock_timestamp() - least(
         (select min(w.created_at) from waiting as w),
         (select p.created_at
            from :"schema".parked as p
           where p.dead_at is null and p.held_by <> ''
           order by p.id
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
       exists (select from :"schema".parked as p where p.dead_at is null)
         or %(dead_blocks)s::boolean and bounded.parked > 0 as blocking,
       (select c.epoch from c) as epoch
  from (
    select (select count(*)
              from (select from :"schema".parked as p
                     order by p.id
                     limit %(exact_up_to)s::bigint) as k) as parked,
           (select count(*)
              from (select from :"schema".parked as p
                     where p.dead_at is not null
                     order by p.id
                     limit %(exact_up_to)s::bigint) as k) as dead
  ) as bounded
