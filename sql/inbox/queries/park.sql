-- park: keep messages that are not handled; one that was refused, or those that wait behind one.
--
-- takes    consumer, stream (text); message_ids, subjects, keys, headers (text[]), sequences
--          (bigint[]), stored_ats (timestamptz[]), payloads (bytea[]): one element a message;
--          error (text; empty: they wait), delay (float8, s until the next try; null: dead)
-- locks    the new rows, and their keys
--
-- The keys are lined up behind that: a person may have decided about the message that blocks a key
-- since take looked.
with parked as (
  insert into :"schema".inbox_parked (
    consumer, stream, message_id, subject, key, headers, sequence, stored_at, payload,
    attempts, next_attempt_at, first_refused_at, last_refused_at, last_error, dead_at, errors
  )
  select %(consumer)s, %(stream)s, m.message_id, m.subject, m.key, m.headers::json, m.sequence,
         m.stored_at, m.payload,
         case when r.refused then 1 else 0 end,
         case when r.refused then r.at + make_interval(secs => r.delay) end,
         case when r.refused then r.at end,
         case when r.refused then r.at end,
         r.error,
         case when r.refused and r.delay is null then r.at end,
         case when r.refused
              then jsonb_build_array(jsonb_build_object('at', r.at, 'attempt', 1, 'error', r.error))
              else '[]' end
    from unnest(%(message_ids)s::text[], %(subjects)s::text[], %(keys)s::text[], %(headers)s::text[],
                %(sequences)s::bigint[], %(stored_ats)s::timestamptz[], %(payloads)s::bytea[])
         with ordinality as m (message_id, subject, key, headers, sequence, stored_at, payload, place),
         (select %(error)s::text as error, %(error)s::text <> '' as refused,
                 %(delay)s::float8 as delay, clock_timestamp() as at) as r
   order by m.place
  returning key
)
select :"schema".inbox_line_up(
  %(consumer)s::text, array(select distinct p.key from parked as p where p.key is not null)
)
