-- audit_horizon: since when the outbox has every row.
--
-- takes    nothing
-- returns  seconds since 1970, or null if no row has been deleted yet: what was settled after that
--          is still in the outbox
-- reads    the marks: about twenty; the lowest id
-- locks    nothing
--
-- Only what the newest mark past retention sees is deleted, and of those past retention only that
-- one is kept: it is the first of the ring, or, just now, the second.
select case when coalesce((select min(o.id) from :"schema".outbox as o), 2) > 1 then
         (select max(m.settled_at)
            from (select extract(epoch from s.settled_at)::float8 as settled_at
                    from :"schema".settled as s
                   order by s.settled_at
                   limit 2) as m)
       end
