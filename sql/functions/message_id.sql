-- message_id: the id by which JetStream tells one event from another (R-ONCE).
--
-- takes    prefix (RELAY_MESSAGE_ID_PREFIX, '' by default), idempotency_key, event_id; retries: how
--          often a person had the event tried again; replay: the replay that publishes it again
--          under a new id, or null
-- returns  the producer's key, exactly; without one relay-<event_id>; after a person's retry
--          relay-<event_id>-<retries>, for events with a key as well; in a replay
--          relay-<event_id>-r<replay>, and -<retries> behind it; the prefix before all of them
-- locks    nothing
--
-- No key begins with relay- (see publishable), so no two of these kinds ever meet. One expression,
-- so that it is inlined into the query that asks.
set search_path = pg_catalog, pg_temp;

create or replace function :"schema".message_id(
  prefix          text,
  idempotency_key text,
  event_id        uuid,
  retries         int,
  replay          bigint default null
) returns text
language sql immutable parallel safe
return prefix || case
  when retries > 0 or replay is not null then
    'relay-' || event_id::text || coalesce('-r' || replay::text, '')
    || case when retries > 0 then '-' || retries::text else '' end
  when idempotency_key is null then 'relay-' || event_id::text
  else idempotency_key
end;

grant execute on function :"schema".message_id(text, text, uuid, int, bigint) to public;
