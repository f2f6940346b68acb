-- unpark: events that were parked are stored now.
--
-- takes    event_ids (text[] of uuids)
-- returns  their keys
-- locks    their rows
delete from :"schema".parked as p
 where p.event_id = any (%(event_ids)s::text[]::uuid[])
returning p.key
