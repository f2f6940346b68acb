-- repark: events that are parked already were tried again, and stay.
--
-- takes    events (json): as park
-- returns  id and event_id of those that are parked
-- locks    their rows
--
-- The first refusal counts from here, not from the parking: an event may have waited for long, behind
-- another one or for its stream. After a person's retry attempts begin at 1 again, and so does it.
update :"schema".parked as p
   set attempts = t.attempts,
       next_attempt_at = clock_timestamp() + make_interval(secs => t.delay),
       dead_at = case when t.dead then clock_timestamp() end,
       held_by = t.held_by,
       last_error = t.error,
       last_code = t.code,
       first_refused_at = case
         when t.held_by = '' and t.attempts = 1 then clock_timestamp() else p.first_refused_at
       end,
       last_refused_at = case when t.held_by = '' then clock_timestamp() else p.last_refused_at end,
       errors = case
         when t.held_by <> '' then p.errors
         else case when jsonb_array_length(p.errors) >= 50 then p.errors - 0 else p.errors end
              || jsonb_build_object('at', clock_timestamp(), 'attempt', t.attempts,
                                    'code', t.code, 'error', t.error)
       end
  from json_to_recordset(%(events)s::json)
         as t (event_id text, id bigint, attempts int, delay float8, dead boolean, held_by text,
               error text, code int)
 where p.event_id = t.event_id::uuid
   and p.id = t.id
returning p.id, p.event_id::text
