-- park: keep events of the page whole: refused, held up, or behind a parked one of their key.
--
-- takes    ids (bigint[]), attempts (int[]), delays (float8[], s from now, null for the dead and for
--          those behind another), dead (boolean[]), held_by (text[]), errors (text[]), codes (int[]),
--          side by side
-- returns  the ids that are in the outbox
-- locks    the new rows
--
-- In one transaction with settle: an event is passed over only if it is kept here. One that is
-- parked already, and comes again out of the rows of another cluster, stays as it is.
with given as materialized (
  select o.id, o.event_id, o.idempotency_key, o.created_at, o.subject, o.key,
         o.payload, o.payload_bytes, o.headers,
         t.attempts, t.delay, t.dead, t.held_by, t.error, t.code
    from unnest(%(ids)s::bigint[], %(attempts)s::int[], %(delays)s::float8[], %(dead)s::boolean[],
                %(held_by)s::text[], %(errors)s::text[], %(codes)s::int[])
           as t (id, attempts, delay, dead, held_by, error, code)
    join :"schema".outbox as o on o.id = t.id
),
kept as (
  insert into :"schema".parked (
    id, event_id, idempotency_key, created_at, subject, key, payload, payload_bytes, headers,
    attempts, next_attempt_at, first_refused_at, last_refused_at, last_error, last_code, dead_at,
    held_by, errors
  )
  select g.id, g.event_id, g.idempotency_key, g.created_at, g.subject, g.key,
         g.payload, g.payload_bytes, g.headers,
         g.attempts, clock_timestamp() + make_interval(secs => g.delay),
         clock_timestamp(), clock_timestamp(), g.error, g.code,
         case when g.dead then clock_timestamp() end, g.held_by,
         case when g.attempts = 0 then '[]'
              else jsonb_build_array(jsonb_build_object(
                     'at', clock_timestamp(), 'attempt', g.attempts, 'code', g.code,
                     'error', g.error))
         end
    from given as g
      on conflict (id) do nothing
)
select g.id from given as g
