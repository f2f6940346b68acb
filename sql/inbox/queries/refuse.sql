-- refuse: keep that a parked message was refused again.
--
-- takes    id (bigint), error (text), delay (float8, s until the next try; null: dead)
-- locks    the row
update :"schema".inbox_parked as p
   set attempts = p.attempts + 1,
       next_attempt_at = r.at + make_interval(secs => r.delay),
       dead_at = case when r.delay is null then r.at end,
       first_refused_at = coalesce(p.first_refused_at, r.at),
       last_refused_at = r.at,
       last_error = r.error,
       errors = (case when jsonb_array_length(p.errors) >= 50 then p.errors - 0 else p.errors end)
                || jsonb_build_object('at', r.at, 'attempt', p.attempts + 1, 'error', r.error)
  from (select clock_timestamp() as at, %(error)s::text as error, %(delay)s::float8 as delay) as r
 where p.id = %(id)s::bigint
