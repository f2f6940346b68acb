-- delivered: which events of a page had been delivered before a repair began.
--
-- takes    ids (bigint[])
-- returns  id, parked (boolean: it is parked now, and not to be published by its page)
-- reads    an entry of the primary key and one of the index of the parked an id
-- locks    nothing
select o.id,
       exists (select from :"schema".parked as p
                where p.id = o.id and p.event_id = o.event_id) as parked
  from :"schema".outbox as o
 where o.id = any (%(ids)s::bigint[])
   and exists (
         select
           from :"schema".repair as r
          where r.ended_at is null
            and (pg_visible_in_snapshot(o.xid, r.base)
                 or r.target is not null
                    and o.id <= r.last_id
                    and pg_visible_in_snapshot(o.xid, r.target))
       )
