-- ttl: how long a stream keeps the message of an event, at most.
--
-- takes    schema (psql variable): a schema with the migrations before this one
-- locks    the outbox against everything, for a moment: no row is read or written. Events without
--          a ttl cost what they did before
--
-- A relay of an older release does not know the column, and a leader of one keeps its term. Give
-- events a ttl once every relay is of this release.
set search_path = pg_catalog, pg_temp;

-- An interval, for it carries its unit. One more operand in the first condition is all that it
-- costs; 0001_outbox says what the two parts are.
alter table :"schema".outbox
  add column ttl interval,
  drop constraint outbox_publishable,
  add constraint outbox_publishable check (
    num_nulls(idempotency_key, payload_bytes, headers, ttl) = 4
    and subject ~ '^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$'
    and key ~ '^[!-~]+$'
    and octet_length(subject || key) <= 255
    and pg_column_size(payload) <= 4096
    and created_at <@ '[2000-01-01 00:00:00+00, 2200-01-01 00:00:00+00)'::tstzrange
    or :"schema".publishable(
      tableoid, created_at, idempotency_key, subject, key, payload, payload_bytes, headers, ttl
    )
  ) not valid;

-- All of these have one more parameter now; a call without it means the same as before.
-- In a new schema there are none, which is nothing to tell a person. What of yours depends on one
-- (a function with a body of SQL, `begin atomic`) is named by the error: drop it, and make it again.
set client_min_messages = warning;
drop function if exists :"schema".publishable(
  oid, timestamptz, text, text, text, json, bytea, jsonb
);
drop function if exists :"schema".emit(text, text, text, jsonb, text);
drop function if exists :"schema".emit(text, jsonb, text, jsonb, text);
drop function if exists :"schema".emit(text, json, text, jsonb, text);
drop function if exists :"schema".emit_bytes(text, bytea, text, jsonb, text);
reset client_min_messages;
