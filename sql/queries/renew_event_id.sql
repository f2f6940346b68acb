-- renew_event_id: give rows an event_id of their own where a parked row has the same (R-ONCE).
--
-- takes    ids (bigint[]), event_ids (text[] of uuids), side by side: rows that could not be parked
-- returns  id, and the new event_id (text), of each that had another one's
-- locks    the rows
--
-- Only an owner can write such rows: the producers' roles may not give an event_id. Under the same
-- event_id neither could be told from the other, among the parked and in the stream.
with restamping as materialized (
  select set_config('relay.restamp', 'on', true) as state
)
update :"schema".outbox as o
   set event_id = gen_random_uuid()
  from restamping as r,
       unnest(%(ids)s::bigint[], %(event_ids)s::text[]::uuid[]) as g (id, event_id)
 where o.id = g.id
   and o.event_id = g.event_id
   and exists (select from :"schema".parked as p where p.event_id = g.event_id and p.id <> g.id)
   and r.state = 'on'
returning o.id, o.event_id::text
