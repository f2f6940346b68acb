-- list: parked messages in the order of id, without payloads.
--
-- takes    consumer (text; null: all), ids (bigint[]; null: all), parked (boolean: live ones, too),
--          limit_rows (bigint)
-- returns  id, consumer, message_id, stream, sequence, stored_at, subject, key, attempts,
--          next_attempt_at, last_refused_at, last_error, dead_at; total: how many there are
-- locks    nothing
with wanted as materialized (
  select p.id
    from :"schema".inbox_parked as p
   where (%(consumer)s::text is null or p.consumer = %(consumer)s)
     and (%(ids)s::bigint[] is null or p.id = any (%(ids)s))
     and (%(parked)s::boolean or p.dead_at is not null)
)
select p.id, p.consumer, p.message_id, p.stream, p.sequence, p.stored_at, p.subject, p.key,
       p.attempts, p.next_attempt_at, p.last_refused_at, p.last_error, p.dead_at,
       (select count(*) from wanted) as total
  from :"schema".inbox_parked as p
 where p.id in (select w.id from wanted as w order by w.id limit %(limit_rows)s::bigint)
 order by p.id
