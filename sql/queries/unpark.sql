-- unpark: events that were parked are stored now.
--
-- takes    ids (bigint[])
-- returns  their keys
-- locks    their rows
delete from :"schema".parked as p
 where p.id = any (%(ids)s::bigint[])
returning p.key
