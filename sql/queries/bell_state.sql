-- bell_state: would writers ring? Asked once a second, which keeps the session alive as well.
--
-- takes    nothing
-- returns  enabled (boolean): the trigger is there and not disabled; queue (float8): how full the
--          NOTIFY queue is, from 0 to 1
-- reads    one entry of pg_trigger
-- locks    nothing
select exists (
         select
           from pg_trigger as t
          where t.tgrelid = (quote_ident(:'schema') || '.outbox')::regclass
            and t.tgname = 'relay_notify'
            and t.tgenabled in ('O', 'A')
       ) as enabled,
       pg_notification_queue_usage() as queue
