-- inbox_drop: give dead messages up for good, and keep who said so.
--
-- takes    ids of inbox_parked; who: the name a person gives, put behind the login's
-- returns  the ids of those that were dead
-- locks    their consumers' rows for key share, against the next term; their keys
--          (inbox_lock_keys); both until this transaction ends. It waits for no handler
--
-- Their rows in inbox stay: a second delivery of the message is not handled either. The next
-- message of each key becomes due.
set search_path = pg_catalog, pg_temp;

create or replace function :"schema".inbox_drop(
  ids bigint[],
  who text
) returns setof bigint
language plpgsql volatile
set search_path = pg_catalog, :"schema", pg_temp
as $drop$
#variable_conflict use_column
declare
  one  record;
  keys jsonb;
begin
  perform from inbox_consumer as c
    where c.name in (select p.consumer from inbox_parked as p where p.id = any ($1))
    order by c.name for key share;

  keys := (
    select jsonb_object_agg(k.consumer, k.keys)
      from (
        select p.consumer, jsonb_agg(distinct p.key) as keys
          from inbox_parked as p
         where p.id = any ($1) and p.key is not null
         group by p.consumer
      ) as k
  );
  for one in select e.key as consumer, e.value as keys from jsonb_each(keys) as e order by e.key loop
    perform inbox_lock_keys(one.consumer, array(select jsonb_array_elements_text(one.keys)));
  end loop;

  return query
  with gone as (
    delete from inbox_parked as p
     where p.id = any ($1) and p.dead_at is not null
    returning p.id, p.consumer, p.message_id, p.subject, p.key, p.attempts, p.last_error
  ),
  noted as (
    insert into inbox_decision (
      decided_by, action, consumer, message_id, subject, key, attempts, last_error
    )
    select session_user || coalesce(' (' || left($2, 500) || ')', ''), 'drop',
           g.consumer, g.message_id, g.subject, g.key, g.attempts, g.last_error
      from gone as g
     order by g.id
  )
  select g.id from gone as g order by g.id;

  for one in select e.key as consumer, e.value as keys from jsonb_each(keys) as e loop
    perform inbox_line_up(one.consumer, array(select jsonb_array_elements_text(one.keys)));
  end loop;
end
$drop$;
