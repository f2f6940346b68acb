-- park: keep events of the page, by reference: refused, held up, or behind a parked one of their
-- key (R-LOSS).
--
-- takes    events (json): of each event_id, id, attempts, delay (s from now, null for the dead and
--          for those behind another), dead (boolean), held_by, error, code. An array of each would
--          cost the client 10 us an event more
-- returns  id and event_id of those that are parked now; the others are not in the outbox, or
--          another parked row has their event_id
-- locks    the new rows
--
-- In one transaction with settle: an event is passed over only if it is kept here. One that is
-- parked already, and comes again out of the rows of another cluster, stays as it is. A row is an
-- event's only if both id and event_id agree. "between" and "limit 1", for the plan that is made
-- while the outbox is empty, and stays, would else walk all of it. A key that the outbox's rules
-- would refuse by now is cut, or no index would take it: it shares the order of those that begin
-- alike.
with given as materialized (
  select o.id, o.event_id, o.subject, left(o.key, 500) as key,
         case when o.created_at between '0001-01-01 UTC'::timestamptz and '9999-12-31 UTC'::timestamptz
              then o.created_at else clock_timestamp() end as created_at,
         t.attempts, t.delay, t.dead, t.held_by, t.error, t.code
    from json_to_recordset(%(events)s::json)
           as t (event_id text, id bigint, attempts int, delay float8, dead boolean, held_by text,
                 error text, code int)
   cross join lateral (
     select o.*
       from :"schema".outbox as o
      where o.id between t.id and t.id
        and o.event_id = t.event_id::uuid
      order by o.id
      limit 1
   ) as o
),
kept as (
  insert into :"schema".parked (
    event_id, id, created_at, subject, key, attempts, next_attempt_at, first_refused_at,
    last_refused_at, last_error, last_code, dead_at, held_by, errors
  )
  select g.event_id, g.id, g.created_at, g.subject, g.key, g.attempts,
         clock_timestamp() + make_interval(secs => g.delay),
         clock_timestamp(), clock_timestamp(), g.error, g.code,
         case when g.dead then clock_timestamp() end, g.held_by,
         case when g.attempts = 0 then '[]'
              else jsonb_build_array(jsonb_build_object(
                     'at', clock_timestamp(), 'attempt', g.attempts, 'code', g.code,
                     'error', g.error))
         end
    from given as g
   order by g.id
      on conflict (event_id) do nothing
  returning id, event_id
)
select k.id, k.event_id::text from kept as k
union all
select p.id, p.event_id::text  -- the statement's snapshot has no row that it inserts
  from given as g
  join :"schema".parked as p on p.event_id = g.event_id and p.id = g.id
 where (select count(*) from kept) < (select count(*) from given)
