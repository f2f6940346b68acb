-- trigger_state: whether writers ring the bell.
--
-- takes    nothing
-- returns  one row: true if the trigger relay_notify fires, false if it is disabled, null if it is
--          not there
-- locks    nothing
select (
  select t.tgenabled in ('O', 'A')
    from pg_trigger as t
   where t.tgrelid = (quote_ident(:'schema') || '.outbox')::regclass
     and t.tgname = 'relay_notify'
) as rings
