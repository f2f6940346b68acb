-- check_headers: say of an event's headers whether it can be published.
--
-- takes    value
-- returns  true; or raises check_violation (23514) with the broken rule's name as the constraint's,
--          and in the message, with the reason
-- locks    nothing
--
-- Asked by the domain event_headers of every event that has any.
--
-- Runs with the producer's rights and search_path, so every name and operator is qualified. (A SET
-- clause would cost as much as the rules.)
create or replace function :"schema".check_headers(value pg_catalog.jsonb) returns pg_catalog.bool
language plpgsql immutable strict
as $check$
declare
  rule pg_catalog.text;
  why  pg_catalog.text;
begin
  if pg_catalog.jsonb_typeof(value) operator(pg_catalog.<>) 'object' then
    rule := 'outbox_headers_are_an_object';
    why  := 'headers are a JSON object of strings, or null';
  elsif pg_catalog.jsonb_path_exists(
    value, 'strict $.* ? (@.type() != "string")'
  ) then
    rule := 'outbox_header_values_are_strings';
    why  := 'every header''s value is a JSON string';
  elsif pg_catalog.jsonb_path_exists(
    value,
    'strict $.keyvalue() ? (!(@.key like_regex "^[!#$%&''*+.^_`|~0-9A-Za-z-]+$"))'
  ) then
    rule := 'outbox_header_names_are_tokens';
    why  := 'a header''s name is made of ASCII letters, digits and !#$%&''*+-.^_`|~';
  elsif pg_catalog.jsonb_path_exists(
    value, 'strict $.keyvalue() ? (@.key like_regex "^(nats|relay)-" flag "i")'
  ) then
    rule := 'outbox_header_names_do_not_begin_with_nats_or_relay';
    why  := 'headers whose names begin with Nats- or Relay- belong to the server and the relay';
  elsif pg_catalog.jsonb_path_exists(
    value, 'strict $.* ? (@ like_regex "[\\u0001-\\u001f\\u007f-\\u009f\\u2028\\u2029]")'
  ) then
    rule := 'outbox_header_values_have_no_control_character';
    why  := 'a header''s value has no control characters or line breaks';
  elsif pg_catalog.octet_length(value::pg_catalog.text) operator(pg_catalog.>) 32768 then
    rule := 'outbox_headers_are_at_most_32_kib';
    why  := 'all headers together have at most 32 KiB';
  end if;

  if rule is not null then
    raise exception 'the outbox refuses this event: % (%)', why, rule
      using errcode = 'check_violation', table = 'outbox', constraint = rule;
  end if;
  return true;
end
$check$;

-- Writers call it by the table they write to, whoever they are.
grant execute on function :"schema".check_headers(jsonb) to public;
