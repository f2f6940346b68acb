-- trial: would the outbox take the table's rows?
--
-- takes    table, mapped, where; most, how many rows are looked at, or null
-- returns  how many; raises check_violation at the first row that is refused
-- locks    nothing
select count(:"schema".publishable(0::oid, clock_timestamp(), m.idempotency_key, m.subject, m.key,
                                   m.payload, m.payload_bytes, m.headers))
  from (select :mapped from :"table" as r where :where limit :most)
       as m (subject, key, payload, payload_bytes, headers, idempotency_key)
