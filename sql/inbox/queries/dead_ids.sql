-- dead_ids: the dead messages that a decision is about, in the order of id.
--
-- takes    consumer (text; null: all), ids (bigint[]; null: all)
-- returns  id
-- locks    nothing
select p.id
  from :"schema".inbox_parked as p
 where p.dead_at is not null
   and (%(consumer)s::text is null or p.consumer = %(consumer)s)
   and (%(ids)s::bigint[] is null or p.id = any (%(ids)s))
 order by p.id
