-- foreign_rows: has any row a transaction id that no transaction of this cluster can have used?
--
-- takes    nothing
-- returns  one row if there is one
-- reads    one entry at the end of the index (xid, id)
-- locks    nothing
--
-- Such rows come by COPY: a data-only restore, a logical subscriber.
select o.id
  from :"schema".outbox as o
 where o.xid >= pg_snapshot_xmax(pg_current_snapshot())
 limit 1
