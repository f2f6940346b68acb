-- retry_dead: let dead events be tried again, as if for the first time, and keep who said so.
--
-- takes    event_ids; as_of: only what was dead by then; who: the name a person gives, put behind the
--          login's; at most 500 characters of it are kept; pause: s from now until they are due
-- returns  id and key of each to which it was done
-- locks    the rows, in the order of id; waits for another person's decision, and then passes over
--          what is not dead any more
--
-- retries becomes a part of the message id: within its duplicate window the stream would take the
-- old one for a repeat. The errors so far stay. A relay that leads looks within a second. From then
-- on the later events of the key wait: with a pause of some seconds, everything that it has published
-- of the key before it looked is settled when the first of these is due.
--
-- Runs with the owner's rights: no operator writes what is parked, or the audit, in any other way.
-- The audit names the login (session_user), whichever role it has taken.
--
-- Not one function with drop_dead: that one needs the whole table's lock, and frees the next of a key.
set search_path = pg_catalog, pg_temp;

create or replace function :"schema".retry_dead(
  event_ids uuid[],
  as_of     timestamptz,
  who       text,
  pause     float8 default 0
) returns table (id bigint, key text)
language plpgsql volatile security definer
set search_path = pg_catalog, :"schema", pg_temp
as $retry$
#variable_conflict use_column
declare
  decided_by constant text := session_user || coalesce(' (' || left(who, 500) || ')', '');
begin
  return query
  with before as (
    select p.id, p.event_id, p.subject, p.key, p.attempts, p.last_error
      from parked as p
     where p.event_id = any (retry_dead.event_ids)
       and p.dead_at <= retry_dead.as_of
     order by p.id
       for update
  ),
  retried as (
    update parked as p
       set dead_at = null,
           attempts = 0,
           retries = p.retries + 1,
           next_attempt_at = clock_timestamp() + make_interval(secs => retry_dead.pause),
           held_by = '',
           retried_by = decided_by,
           retried_at = clock_timestamp()
      from before as b
     where p.event_id = b.event_id
  ),
  noted as (
    insert into decision (
      decided_by, action, parked_id, event_id, subject, key, attempts, last_error
    )
    select decided_by, 'retry', b.id, b.event_id, b.subject, b.key, b.attempts, b.last_error
      from before as b
  )
  select b.id, b.key from before as b;
end
$retry$;

revoke all on function :"schema".retry_dead(uuid[], timestamptz, text, float8) from public;
