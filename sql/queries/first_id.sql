-- first_id: where a backlog's window begins: the lowest id that is new since the base.
--
-- takes    base (pg_snapshot)
-- returns  one bigint, null if nothing is new
-- reads    up to 10,000 new rows by the index (xid, id) behind the base: all of them, when producers
--          are just busy. Of more, the head of the primary key (a large backlog usually starts
--          there); only if that holds nothing new, once over all the index behind the base. Runs
--          once a window.
-- locks    nothing
with newer as materialized (
  (
    select o.id
      from :"schema".outbox as o
     where o.xid >= pg_snapshot_xmax(%(base)s::pg_snapshot)
     limit 10001
  )
  union all
  (
    select late.id
      from pg_snapshot_xip(%(base)s::pg_snapshot) as straggler (xid)
     cross join lateral (
       select o.id
         from :"schema".outbox as o
        where o.xid = straggler.xid
        limit 10001
     ) as late
     limit 10001
  )
),
few as materialized (
  select min(newer.id) as id, count(*) <= 10000 as is_all from newer
)
select case when few.is_all then few.id else coalesce(
  (
    select head.id
      from (
        select o.id, o.xid from :"schema".outbox as o order by o.id limit 100000
      ) as head
     where not pg_visible_in_snapshot(head.xid, %(base)s::pg_snapshot)
     order by head.id
     limit 1
  ),
  (
    select min(first.id)
      from (
        select min(o.id + 0) as id  -- "+ 0": else the planner walks the primary key instead
          from :"schema".outbox as o
         where o.xid >= pg_snapshot_xmax(%(base)s::pg_snapshot)
        union all
        select late.id
          from pg_snapshot_xip(%(base)s::pg_snapshot) as straggler (xid)
         cross join lateral (
           select min(o.id + 0) as id
             from :"schema".outbox as o
            where o.xid = straggler.xid
         ) as late
      ) as first
  )
) end as first_id
  from few
