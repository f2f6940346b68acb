-- check_payload_size: say of a payload's size whether it can be published.
--
-- takes    bytes; column_name, payload or payload_bytes
-- returns  true; or raises check_violation (23514) with the broken rule's name as the constraint's,
--          and in the message, with the reason
-- locks    nothing
--
-- A server's max_payload is 1 MiB by default, headers included; the relay checks that sum against
-- the server's own limit before the wire.
create or replace function :"schema".check_payload_size(
  bytes       pg_catalog.int4,
  column_name pg_catalog.text
) returns pg_catalog.bool
language plpgsql immutable strict
as $check$
declare
  rule constant pg_catalog.text := case column_name
    when 'payload' then 'outbox_payload_is_at_most_1_mib'
    else 'outbox_payload_bytes_are_at_most_1_mib'
  end;
begin
  if bytes operator(pg_catalog.>) 1048576 then
    raise exception 'the outbox refuses this event: % has at most 1 MiB (%)', column_name, rule
      using errcode = 'check_violation', table = 'outbox', constraint = rule;
  end if;
  return true;
end
$check$;

-- Writers call it by the table they write to, whoever they are.
grant execute on function :"schema".check_payload_size(int4, text) to public;
