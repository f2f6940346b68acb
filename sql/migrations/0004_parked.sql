-- parked: events that the stream refused, whole, so that nothing else waits and nothing is lost.
--
-- takes    schema (psql variable)
-- locks    nothing that is in use
--
-- A copy and not a reference: the outbox row goes with the retention, this one when a person or a
-- successful retry says so. dead_at: no further attempt is made by itself.
create table :"schema".parked (
  id               bigint      primary key,
  event_id         uuid        not null,
  idempotency_key  text,
  created_at       timestamptz not null,
  subject          text        not null,
  key              text,
  payload          json,
  payload_bytes    bytea,
  headers          jsonb,
  attempts         int         not null default 0,
  next_attempt_at  timestamptz,
  first_refused_at timestamptz not null default clock_timestamp(),
  last_refused_at  timestamptz not null default clock_timestamp(),
  last_error       text        not null,
  last_code        int,
  dead_at          timestamptz
);

alter table :"schema".parked alter column payload set storage external;
alter table :"schema".parked alter column payload_bytes set storage external;

-- the next event of a key in its order; what is due
create index parked_key_id on :"schema".parked (key, id);
create index parked_next_attempt_at on :"schema".parked (next_attempt_at) where dead_at is null;
