-- dead_later: the events of a key behind a dead one, and which of them were published already.
--
-- takes    key (text); after (bigint): behind this id; limit_rows (bigint)
-- returns  id; published (boolean): it was stored before the dead one; in the order of id
-- reads    the outbox behind that id, and for the key's events the indexes of the parked and of the
--          decisions
-- locks    nothing
--
-- What is settled and not parked is published, unless a person dropped it: that is left out. All
-- else waits for the dead one when that is retried.
select o.id,
       (pg_visible_in_snapshot(o.xid, k.base)
        or o.id <= k.last_id and coalesce(pg_visible_in_snapshot(o.xid, k.target), false))
       and not exists (select from :"schema".parked as p
                        where p.id = o.id and p.event_id = o.event_id) as published
  from :"schema".cursor as k
  join :"schema".outbox as o on o.id > %(after)s::bigint
 where o.key = %(key)s::text
   and not exists (select from :"schema".parked as p
                    where p.id = o.id and p.event_id = o.event_id and p.dead_at is not null)
   and not exists (select from :"schema".decision as d
                    where d.event_id = o.event_id and d.action = 'drop')
 order by o.id
 limit %(limit_rows)s::bigint
