-- list: parked messages in the order of id, without payloads.
--
-- takes    consumer (text; null: all), parked (boolean: live ones, too), limit_rows (bigint)
-- returns  id, consumer, message_id, stream, sequence, stored_at, subject, key, attempts,
--          next_attempt_at, last_refused_at, last_error, dead_at
-- locks    nothing
select p.id, p.consumer, p.message_id, p.stream, p.sequence, p.stored_at, p.subject, p.key,
       p.attempts, p.next_attempt_at, p.last_refused_at, p.last_error, p.dead_at
  from :"schema".inbox_parked as p
 where (%(consumer)s::text is null or p.consumer = %(consumer)s)
   and (%(parked)s::boolean or p.dead_at is not null)
 order by p.id
 limit %(limit_rows)s::bigint
