-- keys_of: the keys of parked events.
--
-- takes    event_ids (text[] of uuids)
-- returns  each key once
-- locks    nothing
select distinct p.key
  from :"schema".parked as p
 where p.event_id = any (%(event_ids)s::text[]::uuid[])
   and p.key is not null
