-- twice: which of the events to be parked share their event_id with another row (R-ONCE).
--
-- takes    event_ids (text[]), ids (bigint[]), side by side
-- returns  the ids of all but the first row of an event_id, and of those whose event_id a parked row
--          of another id has
-- locks    nothing
select t.id
  from (
    select g.event_id, g.id, min(g.id) over (partition by g.event_id) as first_id
      from unnest(%(event_ids)s::text[]::uuid[], %(ids)s::bigint[]) as g (event_id, id)
  ) as t
 where t.id <> t.first_id
    or exists (select from :"schema".parked as p where p.event_id = t.event_id and p.id <> t.id)
