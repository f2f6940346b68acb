-- relay_notify: writers ring the bell, but only if the relay sleeps (R-FIRST).
--
-- takes    schema (psql variable): an outbox; does nothing if the trigger is there, on or off
-- locks    outbox against writers, for a moment, when it makes the trigger
--
-- The relay that sleeps holds the advisory lock (1919247481, oid of the outbox) exclusively. A
-- writer tries for it in shared mode and gives it back at once: nobody waits, and nobody holds
-- anything until commit. Not had: the relay sleeps, so it is rung. Once a statement, whatever the
-- number of its rows.
--
-- The condition names the table by its oid, and is right again after a rename, a dump and a restore.
-- `python -m relay migrate --no-notify` disables the trigger: the relay polls then.
set search_path = pg_catalog, pg_temp;
set relay.schema = :'schema';

do $relay_notify$
declare
  outbox constant text := format('%I.outbox', current_setting('relay.schema'));
begin
  if not exists (select from pg_trigger as t
                  where t.tgrelid = outbox::regclass and t.tgname = 'relay_notify')
  then
    execute format(
      'create trigger relay_notify after insert on %1$s for each statement
         when (not (pg_try_advisory_lock_shared(1919247481, %2$L::regclass::oid::int4)
                    and pg_advisory_unlock_shared(1919247481, %2$L::regclass::oid::int4)))
         execute function %3$I.notify()',
      outbox, outbox, current_setting('relay.schema'));
  end if;
end
$relay_notify$;

reset relay.schema;
