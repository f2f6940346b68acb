-- message_headers: the headers of an event's row, with those that its other columns ask for.
--
-- takes    headers, ttl, replay: the replay that publishes the event again, or null
-- returns  an object of strings, or null; with ttl Nats-TTL, in whole seconds, by which the server
--          removes the message; with replay Relay-Replay
-- locks    nothing
--
-- Whether the stream keeps it is for the relay to know. A ttl that passed the outbox's rules by a
-- hole is written as it is, for the server to refuse (R-FATE). One expression, so that it is inlined
-- into the query that asks.
set search_path = pg_catalog, pg_temp;

create or replace function :"schema".message_headers(
  headers jsonb,
  ttl     interval,
  replay  bigint default null
) returns jsonb
language sql stable parallel safe
return case
  when ttl is null and replay is null then headers
  else coalesce(headers, '{}') || jsonb_strip_nulls(jsonb_build_object(
         'Nats-TTL', trim_scale(extract(epoch from ttl))::text, 'Relay-Replay', replay::text))
end;

grant execute on function :"schema".message_headers(jsonb, interval, bigint) to public;
