-- repark: events that are parked already were tried again, and stay.
--
-- takes    ids (bigint[]), attempts (int[]), delays (float8[], s from now, null for the dead), dead
--          (boolean[]), held_by (text[]), errors (text[]), codes (int[]), side by side
-- returns  the ids that are parked
-- locks    their rows
update :"schema".parked as p
   set attempts = t.attempts,
       next_attempt_at = clock_timestamp() + make_interval(secs => t.delay),
       dead_at = case when t.dead then clock_timestamp() end,
       held_by = t.held_by,
       last_error = t.error,
       last_code = t.code,
       last_refused_at = case when t.held_by = '' then clock_timestamp() else p.last_refused_at end,
       errors = case
         when t.held_by <> '' then p.errors
         else case when jsonb_array_length(p.errors) >= 50 then p.errors - 0 else p.errors end
              || jsonb_build_object('at', clock_timestamp(), 'attempt', t.attempts,
                                    'code', t.code, 'error', t.error)
       end
  from unnest(%(ids)s::bigint[], %(attempts)s::int[], %(delays)s::float8[], %(dead)s::boolean[],
              %(held_by)s::text[], %(errors)s::text[], %(codes)s::int[])
         as t (id, attempts, delay, dead, held_by, error, code)
 where p.id = t.id
returning p.id
