-- backlog: what waits, learnt without counting the table.
--
-- takes    exact_up_to (bigint): count no further than this
-- returns  undelivered (exact up to exact_up_to, above it the distance in ids, which counts
--          rolled-back and settled ones in between too), lag (s, age of the oldest by the database's
--          clock, 0 if none waits), parked, epoch (the term that leads now)
-- reads    at most exact_up_to entries of the index (xid, id), or of the primary key in a window
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
       coalesce((
         select extract(epoch from clock_timestamp() - min(w.created_at)) from waiting as w
       ), 0)::float8 as lag,
       (select count(*) from :"schema".parked) as parked,
       (select c.epoch from c) as epoch
