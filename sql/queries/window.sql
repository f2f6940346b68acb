-- window: begin a window of the backlog: its end, and its ids if they are few.
--
-- takes    base (pg_snapshot); few (bigint)
-- returns  target (this statement's snapshot, as text); ids (bigint[], in order, null if there are
--          more than few); first_id, top_id (bigint): below and above which no row of it lies, the
--          first one null if the ids are known: past what prune has deleted it is far to the first
--          row, as long as another session's snapshot keeps that from being vacuumed
-- reads    few + 1 entries of the index (xid, id) behind the base, and the like for each transaction
--          that was open when the base was taken; both ends of the primary key
-- locks    nothing
with looked as materialized (
  (
    select o.id, o.xid
      from :"schema".outbox as o
     where o.xid >= pg_snapshot_xmax(%(base)s::pg_snapshot)
       and o.xid < pg_snapshot_xmax(pg_current_snapshot())
     limit %(few)s::bigint + 1
  )
  union all
  (
    select late.id, late.xid
      from pg_snapshot_xip(%(base)s::pg_snapshot) as straggler (xid)
     cross join lateral (
       select o.id, o.xid
         from :"schema".outbox as o
        where o.xid = straggler.xid
        limit %(few)s::bigint + 1
     ) as late
     limit %(few)s::bigint + 1
  )
)
select pg_current_snapshot()::text as target,
       case when (select count(*) from looked) <= %(few)s::bigint then array(
         select l.id
           from looked as l
          where pg_visible_in_snapshot(l.xid, pg_current_snapshot())
          order by l.id
       ) end as ids,
       case when (select count(*) from looked) > %(few)s::bigint
            then (select min(o.id) from :"schema".outbox as o) end as first_id,
       (select max(o.id) from :"schema".outbox as o) as top_id
