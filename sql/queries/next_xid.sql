-- next_xid: what is needed to know the next transaction id without using it up.
--
-- takes    nothing
-- returns  xmax (text of an xid8) of the snapshot, and age (int): the low half of the next id, less 3
-- locks    nothing
--
-- Both are fixed for a transaction: this statement has to be one of its own, begun after whatever it
-- has to come after.
select pg_snapshot_xmax(pg_current_snapshot())::text as xmax, age('3'::xid) as age
