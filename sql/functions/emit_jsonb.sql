-- emit: the same for a jsonb payload, which has no implicit cast to json.
--
-- takes    what emit for json takes, the payload as jsonb
-- returns  the same
-- locks    the same
set search_path = pg_catalog, pg_temp;

create or replace function :"schema".emit(
  subject         text,
  payload         jsonb,
  key             text     default null,
  headers         jsonb    default null,
  idempotency_key text     default null,
  ttl             interval default null
) returns uuid
language sql volatile
return :"schema".emit($1, $2::json, $3, $4, $5, $6);

revoke all on function :"schema".emit(text, jsonb, text, jsonb, text, interval) from public;
