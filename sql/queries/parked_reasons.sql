-- parked_reasons: why events are parked, counted.
--
-- takes    nothing
-- returns  dead (boolean), held_by (text; empty if no outage holds them), code (int; JetStream's
--          err_code, or null), error (text: the latest of them), events (bigint), first_id (bigint);
--          the most events first, at most 20 rows
-- reads    10,000 entries of the index of the dead and of the live at most: beyond them, it is a part
-- locks    nothing
--
-- An event that waits behind another one of its key has no reason of its own, and is left out.
with looked as materialized (
  (
    select p.* from :"schema".parked as p where p.dead_at is not null order by p.id limit 10000
  )
  union all
  (
    select p.* from :"schema".parked as p where p.dead_at is null order by p.key, p.id limit 10000
  )
)
select l.dead_at is not null as dead, l.held_by, l.last_code as code,
       (array_agg(l.last_error order by l.last_refused_at desc))[1] as error,
       count(*) as events, min(l.id) as first_id
  from looked as l
 where l.dead_at is not null
    or l.next_attempt_at is not null
 group by l.dead_at is not null, l.held_by, l.last_code
 order by count(*) desc, min(l.id)
 limit 20
