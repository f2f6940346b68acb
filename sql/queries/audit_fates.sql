-- audit_fates: what the relay says of some of its events.
--
-- takes    ids (bigint[])
-- returns  id, fate: gone (no such row any more), dead, parked, settled (the relay has passed it
--          over as stored), pending
-- reads    the outbox by id, the parked by event_id
-- locks    nothing
select asked.id,
       case when o.id is null then 'gone'
            when p.dead_at is not null then 'dead'
            when p.event_id is not null then 'parked'
            when pg_visible_in_snapshot(o.xid, c.base)
              or (o.id <= c.last_id and pg_visible_in_snapshot(o.xid, c.target)) then 'settled'
            else 'pending' end as fate
  from unnest(%(ids)s::bigint[]) as asked (id)
 cross join :"schema".cursor as c
  left join :"schema".outbox as o on o.id = asked.id
  left join :"schema".parked as p on p.event_id = o.event_id
