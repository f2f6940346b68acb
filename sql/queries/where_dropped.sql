-- where_dropped: which of some events a person has dropped. For logins with the operator's role.
--
-- takes    event_ids (text[] of uuids)
-- returns  event_id, decided_by, decided_at
-- reads    the index of decisions by event_id
-- locks    nothing
select d.event_id::text, d.decided_by, d.decided_at
  from :"schema".decision as d
 where d.event_id = any (%(event_ids)s::text[]::uuid[])
   and d.action = 'drop'
