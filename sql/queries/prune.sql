-- prune: delete one bounded chunk of events that are settled and past their retention.
--
-- takes    floor (bigint): the chunk begins behind this id; chunk_rows (int); retention (interval)
-- returns  deleted (how many went), last_id (where the chunk ended), young (true if it reached a row
--          that is not past its retention, or the table's end)
-- reads    chunk_rows entries of the primary key
-- locks    the deleted rows, which nobody else touches
--
-- Only what the settled base sees may go: a late committer can sit at a low id, not yet read, and
-- a window under way is not behind the base before its end.
with chunk as materialized (
  select o.id, o.xid, o.created_at
    from :"schema".outbox as o
   where o.id > %(floor)s::bigint
   order by o.id
   limit %(chunk_rows)s::bigint
),
settled as (
  select c.id
    from chunk as c, :"schema".cursor as k
   where c.created_at < clock_timestamp() - %(retention)s::interval
     and pg_visible_in_snapshot(c.xid, k.base)
     and k.system_identifier = (select s.system_identifier from pg_control_system() as s)
),
gone as (
  delete from :"schema".outbox as o
   where o.id = any (array(select s.id from settled as s))
  returning 1
)
select (select count(*) from gone) as deleted,
       (select max(c.id) from chunk as c) as last_id,
       (select count(*) < %(chunk_rows)s::bigint
               or bool_or(c.created_at >= clock_timestamp() - %(retention)s::interval)
          from chunk as c) as young
