-- publishable: refuse an event that can't be published, in its producer's own statement (R-FATE).
--
-- takes    the columns of one row; outbox, the table's oid
-- returns  true; or raises check_violation (23514) with the broken rule's name as the constraint's,
--          and in the message, with the reason; the detail says which event it is
-- locks    nothing
--
-- The outbox's only CHECK calls it for the rows that its own first condition does not pass, whether
-- they are written by INSERT, COPY, UPDATE or emit. The first expression here passes at once what
-- nearly every other event looks like; the rules below it decide about the rest. A one-row INSERT
-- costs 17 to 21 µs of CPU more than without the function; seven conditions cost 54, and domains
-- 22. Its own error says more than Postgres's, which would quote the row: no payload belongs in a
-- log.
--
-- Runs with the producer's rights and settings, so every name and operator is qualified, and a
-- literal with a backslash is an E'' one. (A SET clause would cost as much as the rules.)
--
-- A relay that writes a new xid into rows of another cluster writes nothing that it could mend.
-- With the setting relay.restamp on, a login that may delete from the outbox passes whatever the
-- row holds: what these rules would refuse now is that event's fate, not the others'.
set search_path = pg_catalog, pg_temp;

create or replace function :"schema".publishable(
  outbox          pg_catalog.oid,
  created_at      pg_catalog.timestamptz,
  idempotency_key pg_catalog.text,
  subject         pg_catalog.text,
  key             pg_catalog.text,
  payload         pg_catalog.json,
  payload_bytes   pg_catalog.bytea,
  headers         pg_catalog.jsonb,
  ttl             pg_catalog.interval default null
) returns pg_catalog.bool
language plpgsql stable
as $publishable$
declare
  rule pg_catalog.text;
  why  pg_catalog.text;
begin
  if pg_catalog.regexp_like(subject, '^[A-Za-z0-9-][A-Za-z0-9_-]*(?:[.][A-Za-z0-9_-]+)*$')
     and pg_catalog.octet_length(subject) operator(pg_catalog.<=) 255
     and (key is null
          or pg_catalog.regexp_like(key, '^[!-~]+$')
             and pg_catalog.octet_length(key) operator(pg_catalog.<=) 255)
     and (idempotency_key is null
          or pg_catalog.regexp_like(idempotency_key, '^[!-~]+$')
             and pg_catalog.octet_length(idempotency_key) operator(pg_catalog.<=) 255
             and not pg_catalog.starts_with(idempotency_key, 'relay-'))
     and (payload_bytes is null
            -- even compressed, 255 times at best, this is less than 1 MiB
            and (pg_catalog.pg_column_size(payload) operator(pg_catalog.<=) 4096
                 or pg_catalog.octet_length(payload::pg_catalog.text)
                    operator(pg_catalog.<=) 1048576)
          or payload is null
            and pg_catalog.octet_length(payload_bytes) operator(pg_catalog.<=) 1048576)
     and (headers is null
          -- what tracing sends
          or pg_catalog.jsonb_typeof(headers) operator(pg_catalog.=) 'object'
             and headers operator(pg_catalog.-) '{traceparent,tracestate,baggage}'::pg_catalog.text[]
                 operator(pg_catalog.=) '{}'::pg_catalog.jsonb
             -- as text at most six times as long
             and pg_catalog.pg_column_size(headers) operator(pg_catalog.<=) 4096
             and pg_catalog.pg_column_compression(headers) is null
             and not pg_catalog.jsonb_path_exists(
               headers, 'strict $.* ? (@.type() != "string" || @ like_regex "[^ -~]")')
          -- a name that begins with n or r is left to the rules
          or pg_catalog.jsonb_typeof(headers) operator(pg_catalog.=) 'object'
             and pg_catalog.octet_length(headers::pg_catalog.text) operator(pg_catalog.<=) 32768
             and not pg_catalog.jsonb_path_exists(
               headers,
               E'strict $.keyvalue() ? (
                  @.value.type() != "string"
                  || !(@.key like_regex "^[!#$%&''*+.^_`|~0-9A-MO-QS-Za-mo-qs-z-][!#$%&''*+.^_`|~0-9A-Za-z-]*$")
                  || @.value like_regex "[\\\\u0001-\\\\u001f\\\\u007f-\\\\u009f\\\\u2028\\\\u2029]")'))
     and (ttl is null
          or pg_catalog.mod(pg_catalog.extract('epoch', ttl), 1) operator(pg_catalog.=) 0
             and pg_catalog.extract('epoch', ttl) operator(pg_catalog.>=) 1
             and pg_catalog.extract('epoch', ttl) operator(pg_catalog.<=) 3155760000)
     and created_at operator(pg_catalog.>=) '2000-01-01 00:00:00+00'::pg_catalog.timestamptz
     and created_at operator(pg_catalog.<) '2200-01-01 00:00:00+00'::pg_catalog.timestamptz
  then
    return true;
  end if;

  -- The subject is literal, and is nobody's API or inbox. A space would end it on the wire.
  if pg_catalog.octet_length(subject) operator(pg_catalog.>) 255 then
    rule := 'outbox_subject_is_at_most_255_bytes';
    why  := 'a subject has at most 255 bytes';
  elsif pg_catalog.regexp_like(subject, '(^|[.])([.]|$)') then
    rule := 'outbox_subject_has_no_empty_token';
    why  := 'a subject is made of tokens with one dot between them, and none at its ends';
  elsif pg_catalog.regexp_like(subject, '[*>]') then
    rule := 'outbox_subject_has_no_wildcard';
    why  := 'an event is published to one literal subject, without * and >';
  elsif pg_catalog.regexp_like(subject, '^([$]|_INBOX)') then
    rule := 'outbox_subject_does_not_begin_with_dollar_or_inbox';
    why  := 'subjects that begin with $ or _INBOX belong to NATS itself';
  elsif pg_catalog.regexp_like(
    subject,
    E'[\\u0001-\\u0020\\u007f-\\u00a0\\u1680\\u2000-\\u200f\\u2028-\\u202f\\u205f-\\u206f\\u3000\\ufeff]'
  ) then
    rule := 'outbox_subject_has_no_space_or_control_character';
    why  := 'a subject has no spaces, control characters or invisible ones';

  -- Both keys travel as header values: a line break would end the header, and readers of headers
  -- strip spaces at both ends, whereby two keys would become one.
  elsif pg_catalog.octet_length(key) operator(pg_catalog.>) 255
        or pg_catalog.octet_length(key) operator(pg_catalog.=) 0
  then
    rule := 'outbox_key_is_1_to_255_bytes';
    why  := 'key has 1 to 255 bytes, or is null';
  elsif pg_catalog.regexp_like(
    key,
    E'[\\u0001-\\u001f\\u007f-\\u009f\\u2028\\u2029]|^[\\u0020\\u00a0\\u1680\\u2000-\\u200a\\u202f\\u205f\\u3000]|[\\u0020\\u00a0\\u1680\\u2000-\\u200a\\u202f\\u205f\\u3000]$'
  ) then
    rule := 'outbox_key_has_no_control_character_or_outer_space';
    why  := 'key has no control characters, and no space at either end';
  elsif pg_catalog.octet_length(idempotency_key) operator(pg_catalog.>) 255
        or pg_catalog.octet_length(idempotency_key) operator(pg_catalog.=) 0
  then
    rule := 'outbox_idempotency_key_is_1_to_255_bytes';
    why  := 'idempotency_key has 1 to 255 bytes, or is null';
  elsif pg_catalog.regexp_like(
    idempotency_key,
    E'[\\u0001-\\u001f\\u007f-\\u009f\\u2028\\u2029]|^[\\u0020\\u00a0\\u1680\\u2000-\\u200a\\u202f\\u205f\\u3000]|[\\u0020\\u00a0\\u1680\\u2000-\\u200a\\u202f\\u205f\\u3000]$'
  ) then
    rule := 'outbox_idempotency_key_has_no_control_character_or_outer_space';
    why  := 'idempotency_key has no control characters, and no space at either end';
  elsif pg_catalog.starts_with(idempotency_key, 'relay-') then
    -- R-ONCE: a message id that the relay made is never a producer's
    rule := 'outbox_idempotency_key_does_not_begin_with_relay';
    why  := 'message ids that begin with relay- are those that the relay makes';

  elsif pg_catalog.jsonb_typeof(headers) operator(pg_catalog.<>) 'object' then
    rule := 'outbox_headers_are_an_object';
    why  := 'headers are a JSON object of strings, or null';
  elsif pg_catalog.jsonb_path_exists(
    headers, 'strict $.* ? (@.type() != "string")'
  ) then
    rule := 'outbox_header_values_are_strings';
    why  := 'every header''s value is a JSON string';
  elsif pg_catalog.jsonb_path_exists(
    headers,
    'strict $.keyvalue() ? (!(@.key like_regex "^[!#$%&''*+.^_`|~0-9A-Za-z-]+$"))'
  ) then
    rule := 'outbox_header_names_are_tokens';
    why  := 'a header''s name is made of ASCII letters, digits and !#$%&''*+-.^_`|~';
  elsif pg_catalog.jsonb_path_exists(
    headers, 'strict $.keyvalue() ? (@.key like_regex "^(nats|relay)-" flag "i")'
  ) then
    rule := 'outbox_header_names_do_not_begin_with_nats_or_relay';
    why  := 'headers whose names begin with Nats- or Relay- belong to the server and the relay';
  elsif pg_catalog.jsonb_path_exists(
    headers, E'strict $.* ? (@ like_regex "[\\\\u0001-\\\\u001f\\\\u007f-\\\\u009f\\\\u2028\\\\u2029]")'
  ) then
    rule := 'outbox_header_values_have_no_control_character';
    why  := 'a header''s value has no control characters or line breaks';
  elsif pg_catalog.octet_length(headers::pg_catalog.text) operator(pg_catalog.>) 32768 then
    rule := 'outbox_headers_are_at_most_32_kib';
    why  := 'all headers together have at most 32 KiB';

  elsif payload is not null and payload_bytes is not null then
    rule := 'outbox_one_of_payload_and_payload_bytes_is_given';
    why  := 'an event has a payload or payload_bytes, not both';
  elsif payload is null and payload_bytes is null then
    rule := 'outbox_one_of_payload_and_payload_bytes_is_given';
    why  := 'an event has a payload or payload_bytes; JSON''s null is a payload, SQL''s is not';
  elsif pg_catalog.octet_length(payload_bytes) operator(pg_catalog.>) 1048576 then
    -- A server's max_payload is 1 MiB by default, headers included; the relay checks that sum
    -- against the server's own limit before the wire.
    rule := 'outbox_payload_bytes_are_at_most_1_mib';
    why  := 'payload_bytes has at most 1 MiB';
  elsif pg_catalog.octet_length(payload::pg_catalog.text) operator(pg_catalog.>) 1048576 then
    rule := 'outbox_payload_is_at_most_1_mib';
    why  := 'payload has at most 1 MiB';

  elsif created_at operator(pg_catalog.<) '2000-01-01 00:00:00+00'::pg_catalog.timestamptz
        or created_at operator(pg_catalog.>=) '2200-01-01 00:00:00+00'::pg_catalog.timestamptz
  then
    rule := 'outbox_created_at_is_of_2000_to_2200';
    why  := 'created_at lies in the years 2000 to 2199, in UTC';

  -- The server counts in seconds, and takes a larger number for another one.
  elsif pg_catalog.mod(pg_catalog.extract('epoch', ttl), 1) operator(pg_catalog.<>) 0
        or pg_catalog.extract('epoch', ttl) operator(pg_catalog.<) 1
        or pg_catalog.extract('epoch', ttl) operator(pg_catalog.>) 3155760000
  then
    rule := 'outbox_ttl_is_whole_seconds_up_to_100_years';
    why  := 'ttl is an interval of whole seconds, from 1 second to 100 years, or null';
  end if;

  if rule is not null
     and not (coalesce(pg_catalog.current_setting('relay.restamp', true), '') operator(pg_catalog.=) 'on'
              and pg_catalog.has_table_privilege(session_user, outbox, 'delete'))
  then
    raise exception 'the outbox refuses this event: % (%)', why, rule
      using errcode = 'check_violation', table = 'outbox', constraint = rule,
            detail = pg_catalog.format('subject %L, key %L, idempotency_key %L',
                                       pg_catalog.left(subject, 300), pg_catalog.left(key, 300),
                                       pg_catalog.left(idempotency_key, 300));
  end if;
  return true;
end
$publishable$;

-- Writers call it by the table they write to, whoever they are.
grant execute on function :"schema".publishable(
  oid, timestamptz, text, text, text, json, bytea, jsonb, interval
) to public;
