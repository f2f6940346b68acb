-- top_id: the highest id in the outbox, null if it is empty.
--
-- takes    nothing
-- reads    one entry of the primary key
-- locks    nothing
select max(o.id) from :"schema".outbox as o
