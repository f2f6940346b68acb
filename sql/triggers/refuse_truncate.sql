-- refuse_truncate: no TRUNCATE of the outbox while parked events refer to its rows (R-LOSS).
--
-- takes    schema (psql variable): an outbox; does nothing if the trigger is there
-- locks    outbox against writers, for a moment, when it makes the trigger
set search_path = pg_catalog, pg_temp;
set relay.schema = :'schema';

do $refuse_truncate$
declare
  s      constant text := current_setting('relay.schema');
  outbox constant text := format('%I.outbox', s);
begin
  if not exists (select from pg_trigger as t
                  where t.tgrelid = outbox::regclass and t.tgname = 'refuse_truncate')
  then
    execute format('create trigger refuse_truncate before truncate on %s '
                   'for each statement execute function %I.refuse_truncate()', outbox, s);
  end if;
end
$refuse_truncate$;

reset relay.schema;
