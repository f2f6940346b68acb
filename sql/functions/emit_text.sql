-- emit: the same for JSON that comes as text.
--
-- takes    what emit for json takes, the payload as text
-- returns  the same
-- locks    the same
--
-- This one makes emit('orders.placed', '{"id": 1}') work: between json and jsonb alone an untyped
-- literal, or a driver's untyped parameter, is ambiguous; text is the type that Postgres prefers for
-- it. Text that is not JSON is refused by the cast.
set search_path = pg_catalog, pg_temp;

create or replace function :"schema".emit(
  subject         text,
  payload         text,
  key             text     default null,
  headers         jsonb    default null,
  idempotency_key text     default null,
  ttl             interval default null
) returns uuid
language sql volatile
return :"schema".emit($1, $2::json, $3, $4, $5, $6);

revoke all on function :"schema".emit(text, text, text, jsonb, text, interval) from public;
