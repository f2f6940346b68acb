-- delivered: which events of a page had been delivered before a repair began.
--
-- takes    ids (bigint[])
-- returns  id; parked (boolean: it is parked now, and not to be published by its page); stored
--          (boolean: a stream had it, for it is not parked, or only since the repair began)
-- reads    an entry of the primary key and one of the index of the parked an id
-- locks    nothing
--
-- The error is the one that rewind gives.
select o.id, p.again is not null as parked, coalesce(p.again, true) as stored
  from unnest(%(ids)s::bigint[]) as i (id)
 cross join lateral (
   select e.*
     from :"schema".outbox as e
    where e.id between i.id and i.id
    order by e.id
    limit 1
 ) as o
  left join lateral (
    select (k.last_error = 'its stream has lost it: to be published again') is true as again
      from :"schema".parked as k
     where k.id between o.id and o.id
       and k.event_id = o.event_id
     order by k.id
     limit 1
  ) as p on true
 where exists (
         select
           from :"schema".repair as r
          where r.ended_at is null
            and (pg_visible_in_snapshot(o.xid, r.base)
                 or r.target is not null
                    and o.id <= r.last_id
                    and pg_visible_in_snapshot(o.xid, r.target))
       )
