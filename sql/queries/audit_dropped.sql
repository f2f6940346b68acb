-- audit_dropped: which of some events a person has dropped. For logins with the operator's role.
--
-- takes    ids (bigint[])
-- returns  id
-- reads    the index of decisions by parked_id
-- locks    nothing
select d.parked_id
  from :"schema".decision as d
 where d.parked_id = any (%(ids)s::bigint[])
   and d.action = 'drop'
