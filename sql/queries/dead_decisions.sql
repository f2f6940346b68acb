-- dead_decisions: what people decided about one event, the latest 100 of it.
--
-- takes    id (bigint) or event_id (text of a uuid); the other one is null
-- returns  decided_at, decided_by, action, parked_id, attempts, last_error in the order of deciding
-- reads    the decisions
-- locks    nothing
select d.decided_at, d.decided_by, d.action, d.parked_id, d.attempts, d.last_error
  from (
    select *
      from :"schema".decision as d
     where d.parked_id = %(id)s::bigint
        or d.event_id = %(event_id)s::text::uuid
     order by d.id desc
     limit 100
  ) as d
 order by d.id
