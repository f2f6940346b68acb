-- unpark: take parked messages that were handled out of the park.
--
-- takes    ids (bigint[])
-- locks    the deleted rows
delete from :"schema".inbox_parked as p where p.id = any (%(ids)s::bigint[])
