-- dead_drop: delete dead events for good, and keep who said so.
--
-- takes    ids (bigint[]); as_of (timestamptz): only what was dead by then; by (text): the name a
--          person gives, put behind the login's
-- returns  parked_id and key of those to which it was done
-- locks    the rows; dead_lock comes first
with decided as (
  select session_user || ' (' || %(by)s::text || ')' as by
),
dropped as (
  delete from :"schema".parked as p
   where p.id = any (%(ids)s::bigint[])
     and p.dead_at <= %(as_of)s::timestamptz
  returning p.id, p.event_id, p.subject, p.key, p.attempts, p.last_error
)
insert into :"schema".decision (
  decided_by, action, parked_id, event_id, subject, key, attempts, last_error
)
select d.by, 'drop', p.id, p.event_id, p.subject, p.key, p.attempts, p.last_error
  from dropped as p, decided as d
 order by p.id
returning parked_id, key
