-- check_key: say of a key or an idempotency_key whether it can be published.
--
-- takes    value; column_name, which of the two
-- returns  true; or raises check_violation (23514) with the broken rule's name as the constraint's,
--          and in the message, with the reason
-- locks    nothing
--
-- Their domains ask only about what their own quick test does not know.
--
-- Runs with the producer's rights and search_path, so every name and operator is qualified. (A SET
-- clause would cost as much as the rules.)
create or replace function :"schema".check_key(
  value       pg_catalog.text,
  column_name pg_catalog.text
) returns pg_catalog.bool
language plpgsql immutable strict
as $check$
declare
  rule pg_catalog.text;
  why  pg_catalog.text;
begin
  -- Both keys travel as header values: a line break would end the header, and readers of headers
  -- strip spaces at both ends, whereby two keys would become one.
  if pg_catalog.octet_length(value) operator(pg_catalog.>) 255
     or pg_catalog.octet_length(value) operator(pg_catalog.=) 0
  then
    rule := pg_catalog.concat('outbox_', column_name, '_is_1_to_255_bytes');
    why  := pg_catalog.concat(column_name, ' has 1 to 255 bytes, or is null');
  elsif pg_catalog.regexp_like(
    value,
    '[\u0001-\u001f\u007f-\u009f\u2028\u2029]|^[\u0020\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]|[\u0020\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]$'
  ) then
    rule := pg_catalog.concat(
      'outbox_', column_name, '_has_no_control_character_or_outer_space');
    why  := pg_catalog.concat(
      column_name, ' has no control characters, and no space at either end');
  end if;

  if rule is not null then
    raise exception 'the outbox refuses this event: % (%)', why, rule
      using errcode = 'check_violation', table = 'outbox', constraint = rule;
  end if;
  return true;
end
$check$;

-- Writers call it by the table they write to, whoever they are.
grant execute on function :"schema".check_key(text, text) to public;
