-- copy: let what was in the table before its trigger wait in front of what has come since (R-ORDER).
--
-- takes    schema; rows; table; mapped; order, a column; where
-- locks    nothing that is in use
--
-- A row has come since if it waits already: its trigger wrote both in one transaction, and one
-- statement sees both or neither. Ids of what was before are negative.
insert into :"schema".:"rows" (id, subject, key, payload, payload_bytes, headers, idempotency_key)
overriding system value
select row_number() over (order by m.place, m.physical) - 9223372036854775807,
       m.subject, m.key, m.payload, m.payload_bytes, m.headers, m.idempotency_key
  from (select :mapped, r.:"order", r.ctid from :"table" as r where :where)
       as m (subject, key, payload, payload_bytes, headers, idempotency_key, place, physical)
 where not exists (
   select from :"schema".:"rows" as w where w.idempotency_key = m.idempotency_key
 );
comment on table :"schema".:"rows" is 'copied';
