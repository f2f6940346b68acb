-- emit: write one event into the outbox, in the caller's transaction.
--
-- takes    subject, payload (JSON, kept as it is written), key (order is kept per key),
--          headers (object of strings), idempotency_key (the message id), ttl (how long a stream
--          keeps the message)
-- returns  the event's id; for an idempotency_key that the outbox already holds, the first one's
-- locks    the new row; with an idempotency_key that another open transaction has just written, it
--          waits for that one's end
--
-- The outbox remembers an idempotency_key for as long as it retains the event.
-- Under repeatable read or serializable, an idempotency_key that was written meanwhile raises a
-- serialization failure (40001): run the transaction again.
set search_path = pg_catalog, pg_temp;

create or replace function :"schema".emit(
  subject         text,
  payload         json,
  key             text     default null,
  headers         jsonb    default null,
  idempotency_key text     default null,
  ttl             interval default null
) returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, :"schema", pg_temp
as $emit$
#variable_conflict use_column
declare
  made uuid;
begin
  loop
    insert into outbox as o (subject, payload, key, headers, idempotency_key, ttl)
    values ($1, $2, $3, $4, $5, $6)
    on conflict (idempotency_key) where idempotency_key is not null do nothing
    returning o.event_id into made;
    exit when found;
    select o.event_id into made from outbox as o where o.idempotency_key = $5;
    exit when found;
    -- retention deleted the first one between the two statements: insert again
  end loop;
  return made;
end
$emit$;

revoke all on function :"schema".emit(text, json, text, jsonb, text, interval) from public;
