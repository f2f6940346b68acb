-- emit: write one event of JSON, for relay/producer.
--
-- takes    subject, payload (JSON as text), key, headers (JSON as text), idempotency_key,
--          ttl (interval as text): $1 to $6
-- returns  the event's id; for an idempotency_key that the outbox already holds, the first one's
-- locks    what the function emit locks
--
-- Everything comes as text: a driver whose codec for json dumps what it is given would dump twice.
-- cast, not ::, for SQLAlchemy writes its parameters with a colon.
select :"schema".emit(
  cast($1 as text),
  cast($2 as text),
  key => cast($3 as text),
  headers => cast(cast($4 as text) as jsonb),
  idempotency_key => cast($5 as text),
  ttl => cast(cast($6 as text) as interval)
) as event_id
