-- check_subject: say of a subject whether it can be published.
--
-- takes    value
-- returns  true; or raises check_violation (23514) with the broken rule's name as the constraint's,
--          and in the message, with the reason
-- locks    nothing
--
-- The domain event_subject asks only about what its own quick test does not know.
--
-- Runs with the producer's rights and search_path, so every name and operator is qualified. (A SET
-- clause would cost as much as the rules.)
create or replace function :"schema".check_subject(value pg_catalog.text) returns pg_catalog.bool
language plpgsql immutable strict
as $check$
declare
  rule pg_catalog.text;
  why  pg_catalog.text;
begin
  -- The subject is literal, and is nobody's API or inbox. A space would end it on the wire.
  if pg_catalog.octet_length(value) operator(pg_catalog.>) 255 then
    rule := 'outbox_subject_is_at_most_255_bytes';
    why  := 'a subject has at most 255 bytes';
  elsif pg_catalog.regexp_like(value, '(^|\.)(\.|$)') then
    rule := 'outbox_subject_has_no_empty_token';
    why  := 'a subject is made of tokens with one dot between them, and none at its ends';
  elsif pg_catalog.regexp_like(value, '[*>]') then
    rule := 'outbox_subject_has_no_wildcard';
    why  := 'an event is published to one literal subject, without * and >';
  elsif pg_catalog.regexp_like(value, '^(\$|_INBOX)') then
    rule := 'outbox_subject_does_not_begin_with_dollar_or_inbox';
    why  := 'subjects that begin with $ or _INBOX belong to NATS itself';
  elsif pg_catalog.regexp_like(
    value,
    '[\u0001-\u0020\u007f-\u00a0\u1680\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff]'
  ) then
    rule := 'outbox_subject_has_no_space_or_control_character';
    why  := 'a subject has no spaces, control characters or invisible ones';
  end if;

  if rule is not null then
    raise exception 'the outbox refuses this event: % (%)', why, rule
      using errcode = 'check_violation', table = 'outbox', constraint = rule;
  end if;
  return true;
end
$check$;

-- Writers call it by the table they write to, whoever they are.
grant execute on function :"schema".check_subject(text) to public;
