-- inbox_retry: let dead messages be tried again, as if for the first time, and keep who said so.
--
-- takes    ids of inbox_parked; who: the name a person gives, put behind the login's
-- returns  the ids of those that were dead
-- locks    their consumers' rows for key share, against the next term; their keys
--          (inbox_lock_keys); both until this transaction ends. It waits for no handler
--
-- A consumer that leads looks within a second.
set search_path = pg_catalog, pg_temp;

create or replace function :"schema".inbox_retry(
  ids bigint[],
  who text
) returns setof bigint
language plpgsql volatile
set search_path = pg_catalog, :"schema", pg_temp
as $retry$
#variable_conflict use_column
declare
  one record;
begin
  perform from inbox_consumer as c
    where c.name in (select p.consumer from inbox_parked as p where p.id = any ($1))
    order by c.name for key share;

  for one in
    select p.consumer, array_agg(distinct p.key) as keys
      from inbox_parked as p
     where p.id = any ($1) and p.key is not null
     group by p.consumer
     order by p.consumer
  loop
    perform inbox_lock_keys(one.consumer, one.keys);
  end loop;

  return query
  with retried as (
    update inbox_parked as p
       set dead_at = null, attempts = 0, next_attempt_at = case when p.key is null then clock_timestamp() end
      from (select o.* from inbox_parked as o where o.id = any ($1) and o.dead_at is not null) as o
     where p.id = o.id and p.dead_at is not null
    returning p.id, o.consumer, o.message_id, o.subject, o.key, o.attempts, o.last_error
  ),
  noted as (
    insert into inbox_decision (
      decided_by, action, consumer, message_id, subject, key, attempts, last_error
    )
    select session_user || coalesce(' (' || left($2, 500) || ')', ''), 'retry',
           r.consumer, r.message_id, r.subject, r.key, r.attempts, r.last_error
      from retried as r
     order by r.id
  )
  select r.id from retried as r order by r.id;

  for one in
    select p.consumer, array_agg(distinct p.key) as keys
      from inbox_parked as p
     where p.id = any ($1) and p.key is not null
     group by p.consumer
  loop
    perform inbox_line_up(one.consumer, one.keys);
  end loop;
end
$retry$;
