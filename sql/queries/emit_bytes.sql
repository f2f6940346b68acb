-- emit_bytes: write one event of bytes, for relay/producer.
--
-- takes    subject, payload (bytea), key, headers (JSON as text), idempotency_key,
--          ttl (interval as text): $1 to $6
-- returns  the event's id; for an idempotency_key that the outbox already holds, the first one's
-- locks    what the function emit_bytes locks
select :"schema".emit_bytes(
  cast($1 as text),
  cast($2 as bytea),
  key => cast($3 as text),
  headers => cast(cast($4 as text) as jsonb),
  idempotency_key => cast($5 as text),
  ttl => cast(cast($6 as text) as interval)
) as event_id
