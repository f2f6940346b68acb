-- message_id: the id by which JetStream tells one event from another (R-ONCE).
--
-- takes    prefix (RELAY_MESSAGE_ID_PREFIX, '' by default), idempotency_key, event_id; retries: how
--          often a person had the event tried again
-- returns  the producer's key, exactly; without one relay-<event_id>; after a person's retry
--          relay-<event_id>-<retries>, for events with a key as well; the prefix before all of them
-- locks    nothing
--
-- No key begins with relay- (see publishable), so no two of the three kinds ever meet. One
-- expression, so that it is inlined into the query that asks.
set search_path = pg_catalog, pg_temp;

create or replace function :"schema".message_id(
  prefix          text,
  idempotency_key text,
  event_id        uuid,
  retries         int
) returns text
language sql immutable parallel safe
return prefix || case
  when retries > 0 then 'relay-' || event_id::text || '-' || retries::text
  when idempotency_key is null then 'relay-' || event_id::text
  else idempotency_key
end;

grant execute on function :"schema".message_id(text, text, uuid, int) to public;
