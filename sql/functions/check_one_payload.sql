-- check_one_payload: refuse an event with both payloads, or with none.
--
-- takes    both (boolean): whether it has both; else it has none
-- returns  nothing; raises check_violation (23514) with the rule's name as the constraint's, and in
--          the message, with the reason
-- locks    nothing
--
-- Only the table's constraint of the same name asks, and of such events only: its own error would
-- quote the row, and no payload belongs in a log.
create or replace function :"schema".check_one_payload("both" pg_catalog.bool)
returns pg_catalog.bool
language plpgsql immutable
as $check$
declare
  rule constant pg_catalog.text := 'outbox_one_of_payload_and_payload_bytes_is_given';
begin
  raise exception 'the outbox refuses this event: % (%)',
    case when "both" then 'an event has a payload or payload_bytes, not both'
         else 'an event has a payload or payload_bytes; JSON''s null is a payload, SQL''s is not'
    end,
    rule
    using errcode = 'check_violation', table = 'outbox', constraint = rule;
end
$check$;

-- Writers call it by the table they write to, whoever they are.
grant execute on function :"schema".check_one_payload(bool) to public;
