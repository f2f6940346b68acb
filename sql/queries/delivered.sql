-- delivered: which events of a page had been delivered before a repair began.
--
-- takes    ids (bigint[])
-- returns  id, parked (boolean: it is parked now, and not to be published by its page)
-- reads    an entry of the primary key and one of the index of the parked an id
-- locks    nothing
select o.id,
       (select true from :"schema".parked as p
         where p.id between o.id and o.id and p.event_id = o.event_id
         order by p.id
         limit 1) is not null as parked
  from unnest(%(ids)s::bigint[]) as i (id)
 cross join lateral (
   select e.*
     from :"schema".outbox as e
    where e.id between i.id and i.id
    order by e.id
    limit 1
 ) as o
 where exists (
         select
           from :"schema".repair as r
          where r.ended_at is null
            and (pg_visible_in_snapshot(o.xid, r.base)
                 or r.target is not null
                    and o.id <= r.last_id
                    and pg_visible_in_snapshot(o.xid, r.target))
       )
