-- park: keep refused events, whole, with the reason; in one transaction with settle.
--
-- takes    ids (bigint[]), reasons (text[]), codes (int[]), side by side
-- returns  the parked ids
-- locks    the parked rows
--
-- An event refused again after a crash is the same row with one attempt more. It is dead at once:
-- a refusal for good, unchanged, is refused again.
insert into :"schema".parked as p (
  id, event_id, idempotency_key, created_at, subject, key, payload, payload_bytes, headers,
  attempts, first_refused_at, last_refused_at, last_error, last_code, dead_at
)
select o.id, o.event_id, o.idempotency_key, o.created_at, o.subject, o.key,
       o.payload, o.payload_bytes, o.headers,
       1, clock_timestamp(), clock_timestamp(), r.reason, r.code, clock_timestamp()
  from unnest(%(ids)s::bigint[], %(reasons)s::text[], %(codes)s::int[]) as r (id, reason, code)
  join :"schema".outbox as o on o.id = r.id
    on conflict (id) do update
   set attempts = p.attempts + 1,
       last_refused_at = excluded.last_refused_at,
       last_error = excluded.last_error,
       last_code = excluded.last_code,
       dead_at = excluded.dead_at
returning p.id
