-- retake: begin the transaction of a parked message's next try, and of those that wait behind it.
--
-- takes    consumer (text), epoch (bigint), id (bigint): of the due one; limit_rows (bigint); idle
--          (text): how long the transaction may be silent
-- returns  in_term (boolean), xid (text); and for each message, in order: id, message_id, stream,
--          sequence, stored_at, subject, key, headers (text), payload, attempts. One row with a null
--          id if there is none any more
-- locks    the consumer's row for key share, until the transaction ends; the parked rows
with term as materialized (
  select c.dead_blocks
    from :"schema".inbox_consumer as c
   where c.name = %(consumer)s
     and c.epoch = %(epoch)s::bigint
     for key share
),
head as materialized (
  select p.id, p.key
    from term, :"schema".inbox_parked as p
   where p.consumer = %(consumer)s
     and p.id = %(id)s::bigint
     and p.dead_at is null
     and p.next_attempt_at is not null
),
line as (
  select p.*
    from head as h
   cross join lateral (
     select b.*
       from :"schema".inbox_parked as b
      where b.consumer = %(consumer)s
        and (b.id = h.id
             or b.key = h.key and b.id > h.id and b.dead_at is null
                and b.id < coalesce((select min(d.id) from term, :"schema".inbox_parked as d
                                      where d.consumer = %(consumer)s and d.key = h.key
                                        and d.id > h.id and d.dead_at is not null
                                        and term.dead_blocks), b.id + 1))
      order by b.id
      limit %(limit_rows)s::bigint
   ) as p
)
select t.in_term, pg_current_xact_id()::text as xid,
       p.id, p.message_id, p.stream, p.sequence, p.stored_at, p.subject, p.key, p.headers::text,
       p.payload, p.attempts,
       set_config('idle_in_transaction_session_timeout', %(idle)s::text, true)
  from (select exists (select from term) as in_term) as t
  left join line as p on true
 order by p.id
