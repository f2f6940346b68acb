-- once: take a message, in the caller's transaction (R-ONCE).
--
-- takes    consumer: a name of its own for each kind of effect; message_id: the header Nats-Msg-Id
-- returns  true: the effect is to be made, in this transaction; false: it was committed before
-- locks    the new row; while another open transaction has taken the same message, it waits for
--          that one's end
--
-- The insert and the effect commit together, or neither does.
set search_path = pg_catalog, pg_temp;

create or replace function :"schema".once(
  consumer   text,
  message_id text
) returns boolean
language plpgsql volatile
set search_path = pg_catalog, :"schema", pg_temp
as $once$
begin
  insert into inbox (consumer, message_id) values ($1, $2) on conflict do nothing;
  return found;
end
$once$;
