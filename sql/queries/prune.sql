-- prune: delete one bounded chunk of events whose settlement is past retention (R-LOSS).
--
-- takes    floor (bigint): the chunk begins behind this id; chunk_rows (int); retention (interval);
--          at (tid, or null): where the cursor row was last
-- returns  deleted (how many went), last_id (where the chunk ended, null if there was nothing),
--          young_id (the lowest id of it that is not past retention, and began after what is), short
--          (whether the chunk reached the table's end)
-- reads    chunk_rows entries of the primary key, the marks, and an entry of the index of the parked
--          a row
-- locks    the deleted rows, which nobody else touches
--
-- Only what the newest mark past retention sees may go: a late committer can sit at a low id, not
-- yet read, and a window under way is not behind the base before its end. Nor what the cursor does
-- not see now: it has gone back where a stream lost messages. And nothing to which a
-- parked event refers: an anti-join costs 0.4 us a row, a foreign key 15. What left the parked stays
-- for the retention, too: its settlement was later than its place says. Nor what a replay under way
-- has still to mark.
with mark as materialized (
  select s.base, k.base as now_base
    from :"schema".settled as s, :"schema".cursor as k
   where s.settled_at <= clock_timestamp() - %(retention)s::interval
     and k.ctid = coalesce((select c.ctid from :"schema".cursor as c where c.ctid = %(at)s::tid),
                           (select c.ctid from :"schema".cursor as c))
     and k.system_identifier = (select c.system_identifier from pg_control_system() as c)
   order by s.settled_at desc
   limit 1
),
replayed as materialized (
  select r.first_id, r.last_id from :"schema".replay as r where r.kept_until > clock_timestamp()
),
chunk as materialized (
  select o.id, o.xid, o.ctid as place
    from :"schema".outbox as o
   where o.id > %(floor)s::bigint
   order by o.id
   limit %(chunk_rows)s::bigint
),
gone as (
  delete from :"schema".outbox as o
   where o.ctid = any (array(  -- rows of a term are never updated
           select c.place
             from chunk as c, mark as m
            where pg_visible_in_snapshot(c.xid, m.base)
              and pg_visible_in_snapshot(c.xid, m.now_base)
              and not exists (select from :"schema".parked as p where p.id = c.id)
              and not exists (
                    select from :"schema".unparked as u
                     where u.id = c.id
                       and u.unparked_at > clock_timestamp() - %(retention)s::interval
                  )
              and not exists (select from replayed as r where c.id between r.first_id and r.last_id)
         ))
  returning 1
),
forgotten as (
  delete from :"schema".unparked as u  -- by their index, which clock_timestamp() can't use
   where u.unparked_at <= statement_timestamp() - %(retention)s::interval
)
select (select count(*) from gone) as deleted,
       (select max(c.id) from chunk as c) as last_id,
       (select min(c.id)
          from chunk as c
          left join mark as m on true
         where m.base is null or c.xid >= pg_snapshot_xmax(m.base)) as young_id,
       (select count(*) < %(chunk_rows)s::bigint from chunk) as short
