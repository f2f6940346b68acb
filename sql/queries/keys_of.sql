-- keys_of: the keys of parked events.
--
-- takes    ids (bigint[])
-- returns  each key once
-- locks    nothing
select distinct p.key
  from :"schema".parked as p
 where p.id = any (%(ids)s::bigint[])
   and p.key is not null
