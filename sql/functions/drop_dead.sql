-- drop_dead: give dead events up for good, and keep who said so.
--
-- takes    event_ids; as_of: only what was dead by then; who: the name a person gives, put behind the
--          login's; at most 500 characters of it are kept
-- returns  id and key of each to which it was done
-- locks    the parked against writing, until the transaction ends; reading goes on
--
-- Whoever takes an event away lets the next of its key be due. If the relay took one away and a
-- person another one of the same key, each not yet seeing what the other does, the next would be
-- left behind by both: hence the lock. What becomes due does so as if the dead blocked their keys:
-- where they do not, what is behind one is due already.
--
-- Runs with the owner's rights, as retry_dead does.
set search_path = pg_catalog, pg_temp;

create or replace function :"schema".drop_dead(
  event_ids uuid[],
  as_of     timestamptz,
  who       text
) returns table (id bigint, key text)
language plpgsql volatile security definer
set search_path = pg_catalog, :"schema", pg_temp
as $drop$
#variable_conflict use_column
declare
  decided_by constant text := session_user || coalesce(' (' || left(who, 500) || ')', '');
  keys       text[];
begin
  lock table parked in share row exclusive mode;

  select array_agg(distinct p.key) into keys
    from parked as p
   where p.event_id = any (drop_dead.event_ids)
     and p.dead_at <= drop_dead.as_of
     and p.key is not null;

  return query
  with dropped as (
    delete from parked as p
     where p.event_id = any (drop_dead.event_ids)
       and p.dead_at <= drop_dead.as_of
    returning p.id, p.event_id, p.subject, p.key, p.attempts, p.last_error
  ),
  noted as (
    insert into decision (
      decided_by, action, parked_id, event_id, subject, key, attempts, last_error
    )
    select decided_by, 'drop', d.id, d.event_id, d.subject, d.key, d.attempts, d.last_error
      from dropped as d
     order by d.id
  )
  select d.id, d.key from dropped as d order by d.id;

  update parked as p
     set next_attempt_at = clock_timestamp()
    from unnest(keys) as k (key)
   cross join lateral (
     select f.event_id, f.id, f.next_attempt_at
       from parked as f
      where f.key = k.key
        and f.dead_at is null
      order by f.id
      limit 1
   ) as first
   where p.event_id = first.event_id
     and first.next_attempt_at is null
     and not exists (select from parked as e where e.key = k.key and e.id < first.id and e.dead_at is not null);
end
$drop$;

revoke all on function :"schema".drop_dead(uuid[], timestamptz, text) from public;
