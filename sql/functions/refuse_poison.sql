-- refuse_poison: keep out what can't be published, in the producer's own statement.
--
-- takes    nothing (a row trigger of the outbox, before insert and before updates of its content)
-- returns  the row, unchanged; or raises check_violation (23514) with the broken rule's name as the
--          constraint's, and in the message, with the reason
-- locks    nothing
--
-- A trigger and not CHECKs: a CHECK is read from the catalog and compiled anew in every statement.
-- As CHECKs these rules cost 70 us for each one-row INSERT, which is most of it; here, 3 to 5 us.
--
-- The rules guard the stream against its producers, so nothing may be found by the caller's
-- search_path: every name and operator is qualified. (A SET clause would cost as much as the rules.)
create or replace function :"schema".refuse_poison() returns trigger
language plpgsql
as $poison$
declare
  rule pg_catalog.text;
  why  pg_catalog.text;
begin
  -- What nearly every event looks like passes at once. This is stricter than the rules below, which
  -- decide about the rest; it saves the 32 clients of a busy server 25 us a commit.
  if pg_catalog.regexp_like(new.subject, '^[A-Za-z0-9-][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$')
     and pg_catalog.octet_length(new.subject) operator(pg_catalog.<=) 255
     and (new.key is null
          or pg_catalog.regexp_like(new.key, '^[!-~]+$')
             and pg_catalog.octet_length(new.key) operator(pg_catalog.<=) 255)
     and (new.idempotency_key is null
          or pg_catalog.regexp_like(new.idempotency_key, '^[!-~]+$')
             and pg_catalog.octet_length(new.idempotency_key) operator(pg_catalog.<=) 255)
     and new.headers is null
     and (new.payload is not null
            and new.payload_bytes is null
            and pg_catalog.octet_length(new.payload::pg_catalog.text)
                operator(pg_catalog.<=) 1048576
          or new.payload is null
            and new.payload_bytes is not null
            and pg_catalog.octet_length(new.payload_bytes) operator(pg_catalog.<=) 1048576)
  then
    return new;
  end if;

  -- The subject is literal, and is nobody's API or inbox. A space would end it on the wire.
  if pg_catalog.octet_length(new.subject) operator(pg_catalog.>) 255 then
    rule := 'outbox_subject_is_at_most_255_bytes';
    why  := 'a subject has at most 255 bytes';
  elsif pg_catalog.regexp_like(new.subject, '(^|\.)(\.|$)') then
    rule := 'outbox_subject_has_no_empty_token';
    why  := 'a subject is made of tokens with one dot between them, and none at its ends';
  elsif pg_catalog.regexp_like(new.subject, '[*>]') then
    rule := 'outbox_subject_has_no_wildcard';
    why  := 'an event is published to one literal subject, without * and >';
  elsif pg_catalog.regexp_like(new.subject, '^(\$|_INBOX)') then
    rule := 'outbox_subject_does_not_begin_with_dollar_or_inbox';
    why  := 'subjects that begin with $ or _INBOX belong to NATS itself';
  elsif pg_catalog.regexp_like(
    new.subject,
    '[\u0001-\u0020\u007f-\u00a0\u1680\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff]'
  ) then
    rule := 'outbox_subject_has_no_space_or_control_character';
    why  := 'a subject has no spaces, control characters or invisible ones';
  end if;

  -- Both keys travel as header values: a line break would end the header, and readers of headers
  -- strip spaces at both ends, whereby two keys would become one.
  if new.key is not null then
    if pg_catalog.octet_length(new.key) operator(pg_catalog.>) 255
       or pg_catalog.octet_length(new.key) operator(pg_catalog.=) 0
    then
      rule := 'outbox_key_is_1_to_255_bytes';
      why  := 'a key has 1 to 255 bytes; an event without an order has no key (null)';
    elsif pg_catalog.regexp_like(
      new.key,
      '[\u0001-\u001f\u007f-\u009f\u2028\u2029]|^[\u0020\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]|[\u0020\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]$'
    ) then
      rule := 'outbox_key_has_no_control_character_or_outer_space';
      why  := 'a key has no control characters, and no space at either end';
    end if;
  end if;
  if new.idempotency_key is not null then
    if pg_catalog.octet_length(new.idempotency_key) operator(pg_catalog.>) 255
       or pg_catalog.octet_length(new.idempotency_key) operator(pg_catalog.=) 0
    then
      rule := 'outbox_idempotency_key_is_1_to_255_bytes';
      why  := 'an idempotency key has 1 to 255 bytes, or is null';
    elsif pg_catalog.regexp_like(
      new.idempotency_key,
      '[\u0001-\u001f\u007f-\u009f\u2028\u2029]|^[\u0020\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]|[\u0020\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]$'
    ) then
      rule := 'outbox_idempotency_key_has_no_control_character_or_outer_space';
      why  := 'an idempotency key has no control characters, and no space at either end';
    end if;
  end if;

  if new.headers is not null then
    if pg_catalog.jsonb_typeof(new.headers) operator(pg_catalog.<>) 'object' then
      rule := 'outbox_headers_are_an_object';
      why  := 'headers are a JSON object of strings, or null';
    elsif pg_catalog.jsonb_path_exists(
      new.headers, 'strict $.* ? (@.type() != "string")'
    ) then
      rule := 'outbox_header_values_are_strings';
      why  := 'every header''s value is a JSON string';
    elsif pg_catalog.jsonb_path_exists(
      new.headers,
      'strict $.keyvalue() ? (!(@.key like_regex "^[!#$%&''*+.^_`|~0-9A-Za-z-]+$"))'
    ) then
      rule := 'outbox_header_names_are_tokens';
      why  := 'a header''s name is made of ASCII letters, digits and !#$%&''*+-.^_`|~';
    elsif pg_catalog.jsonb_path_exists(
      new.headers, 'strict $.keyvalue() ? (@.key like_regex "^(nats|relay)-" flag "i")'
    ) then
      rule := 'outbox_header_names_do_not_begin_with_nats_or_relay';
      why  := 'headers whose names begin with Nats- or Relay- belong to the server and the relay';
    elsif pg_catalog.jsonb_path_exists(
      new.headers, 'strict $.* ? (@ like_regex "[\\u0001-\\u001f\\u007f-\\u009f\\u2028\\u2029]")'
    ) then
      rule := 'outbox_header_values_have_no_control_character';
      why  := 'a header''s value has no control characters or line breaks';
    elsif pg_catalog.octet_length(new.headers::pg_catalog.text) operator(pg_catalog.>) 32768 then
      rule := 'outbox_headers_are_at_most_32_kib';
      why  := 'all headers together have at most 32 KiB';
    end if;
  end if;

  -- A server's max_payload is 1 MiB by default, headers included; the relay checks that sum
  -- against the server's own limit before the wire.
  if new.payload_bytes is null then
    if new.payload is null then
      rule := 'outbox_one_of_payload_and_payload_bytes_is_given';
      why  := 'an event has a payload or payload_bytes; JSON''s null is a payload, SQL''s is not';
    elsif pg_catalog.octet_length(new.payload::pg_catalog.text) operator(pg_catalog.>) 1048576 then
      rule := 'outbox_payload_is_at_most_1_mib';
      why  := 'a payload has at most 1 MiB';
    end if;
  elsif new.payload is not null then
    rule := 'outbox_one_of_payload_and_payload_bytes_is_given';
    why  := 'an event has a payload or payload_bytes, not both';
  elsif pg_catalog.octet_length(new.payload_bytes) operator(pg_catalog.>) 1048576 then
    rule := 'outbox_payload_bytes_are_at_most_1_mib';
    why  := 'a payload has at most 1 MiB';
  end if;

  if rule is not null then
    raise exception 'the outbox refuses this event: % (%)', why, rule
      using errcode = 'check_violation',
            schema = tg_table_schema, table = tg_table_name, constraint = rule;
  end if;
  return new;
end
$poison$;

-- A trigger function needs no EXECUTE to be fired.
revoke all on function :"schema".refuse_poison() from public;
