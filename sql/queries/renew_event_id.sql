-- renew_event_id: give rows an event_id of their own whose one another row has (R-ONCE).
--
-- takes    ids (bigint[]): rows of the outbox
-- returns  id, event_id (text) of each
-- locks    the rows
--
-- Only an owner can write such rows: the producers' roles may not give an event_id. Under the same
-- one neither could be told from the other, among the parked and in the stream.
with restamping as materialized (
  select set_config('relay.restamp', 'on', true) as state
)
update :"schema".outbox as o
   set event_id = gen_random_uuid()
  from restamping as r
 where o.id = any (%(ids)s::bigint[])
   and r.state = 'on'
returning o.id, o.event_id::text
