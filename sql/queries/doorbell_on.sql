-- doorbell_on: have writers ring; see sql/migrations/0007_doorbell.sql, which says the same.
--
-- takes    schema (psql variable), within a transaction
-- locks    outbox, exclusively, for a moment
set local relay.schema = :'schema';

do $doorbell$
declare
  home constant text := current_setting('relay.schema');
begin
  execute format(
    'alter table %1$I.outbox alter column xid set default
       case when pg_try_advisory_xact_lock_shared(1919247481, %2$L::regclass::oid::int4)
            then pg_current_xact_id()
            else %1$I.ring_asleep(%2$L::regclass)
       end',
    home, format('%I.outbox', home));
end
$doorbell$;
