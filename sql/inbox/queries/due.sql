-- due: parked messages that may be tried now, those that wait longest first.
--
-- takes    consumer (text), limit_rows (bigint)
-- returns  id, key
-- reads    the index of what is due
-- locks    nothing
select p.id, p.key
  from :"schema".inbox_parked as p
 where p.consumer = %(consumer)s
   and p.dead_at is null
   and p.next_attempt_at <= clock_timestamp()
 order by p.next_attempt_at
 limit %(limit_rows)s::bigint
