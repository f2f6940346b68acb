-- dead_retry: let dead events be tried again, as if for the first time, and keep who said so.
--
-- takes    ids (bigint[]); as_of (timestamptz): only what was dead by then; by (text): the name a
--          person gives, put behind the login's
-- returns  parked_id and key of those to which it was done
-- locks    the rows, in the order of id; waits for another person's decision, and then passes over
--          what is not dead any more
--
-- retries becomes a part of the message id: within its duplicate window the stream would take the
-- old one for a repeat. The errors so far stay. A relay that leads looks within a second.
with decided as (
  select session_user || ' (' || %(by)s::text || ')' as by
),
before as (
  select p.id, p.event_id, p.subject, p.key, p.attempts, p.last_error
    from :"schema".parked as p
   where p.id = any (%(ids)s::bigint[])
     and p.dead_at <= %(as_of)s::timestamptz
   order by p.id
     for update
),
retried as (
  update :"schema".parked as p
     set dead_at = null,
         attempts = 0,
         retries = p.retries + 1,
         next_attempt_at = clock_timestamp(),
         held_by = '',
         retried_by = d.by,
         retried_at = clock_timestamp()
    from before as b, decided as d
   where p.id = b.id
)
insert into :"schema".decision (
  decided_by, action, parked_id, event_id, subject, key, attempts, last_error
)
select d.by, 'retry', b.id, b.event_id, b.subject, b.key, b.attempts, b.last_error
  from before as b, decided as d
returning parked_id, key
