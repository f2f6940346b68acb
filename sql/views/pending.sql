-- pending: committed events that are not settled yet, without payload and headers. For people.
--
-- takes    schema (psql variable)
-- columns  id, created_at, event_id, idempotency_key, subject, key
-- reads    as much as waits: by the index of what is new since the cursor's base
-- locks    nothing
--
-- Reads with its owner's rights, so a monitor needs none on the tables.
--
-- "New since the base" is written as two arms that the index (xid, id) can answer; in a window, the
-- part of it that is done goes out again. A transaction is looked up by a range of xid and not by
-- equality: where many rows share few xids, equality makes the planner walk another index.
set search_path = pg_catalog, pg_temp;

create or replace view :"schema".pending as
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
