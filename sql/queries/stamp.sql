-- stamp: give rows that came with transaction ids of another cluster the one of this statement.
--
-- takes    epoch, holder: the term, which must still last; after_id (bigint): the piece begins
--          behind this id; chunk_rows (int): how many rows it looks at; all_rows (boolean): stamp
--          each of them; from_xid (text of an xid8): or else those at or above it
-- returns  last_id (bigint, null at the table's end), stamped (how many)
-- locks    the rows
--
-- The one exception to "never updated". It runs in the order of id and before the term's first
-- read, so that these rows are new together, and are read in the order of id (R-ORDER).
--
-- An update asks the table's CHECK again: relay.restamp lets a row pass that the rules would refuse
-- by now. What can't be published is that event's own fate, not the term's.
with restamping as materialized (
  select set_config('relay.restamp', 'on', true) as state
),
chunk as materialized (
  select o.id, o.xid
    from :"schema".outbox as o
   where o.id > %(after_id)s::bigint
   order by o.id
   limit %(chunk_rows)s::bigint
),
stamped as (
  update :"schema".outbox as o
     set xid = pg_current_xact_id()
    from restamping as r, chunk as c
   where o.id = c.id
     and r.state = 'on'
     and (%(all_rows)s::boolean or c.xid >= %(from_xid)s::text::xid8)
     and exists (select from :"schema".cursor as k
                  where k.epoch = %(epoch)s::bigint and k.holder = %(holder)s::text)
  returning 1
)
select (select max(c.id) from chunk as c) as last_id,
       (select count(*) from stamped) as stamped
