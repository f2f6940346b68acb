-- ring_asleep: the doorbell's other half. Wakes the relay on commit; called only if it sleeps.
--
-- takes    outbox (regclass): which one
-- returns  the transaction's id, for the column whose default calls this; sends NOTIFY
--          "<schema>.outbox" with an empty payload
-- locks    at commit, NOTIFY's cluster-wide lock
--
-- See sql/migrations/0007_doorbell.sql. The channel's name is looked up, not stored: it is right
-- again when the schema was renamed.
create or replace function :"schema".ring_asleep(outbox pg_catalog.regclass) returns pg_catalog.xid8
language plpgsql volatile strict
as $ring$
begin
  -- identical notifications of one transaction are sent once
  perform pg_catalog.pg_notify(pg_catalog.concat(n.nspname, '.outbox'), '')
     from pg_catalog.pg_class as c
     join pg_catalog.pg_namespace as n on n.oid operator(pg_catalog.=) c.relnamespace
    where c.oid operator(pg_catalog.=) ring_asleep.outbox;
  return pg_catalog.pg_current_xact_id();
end
$ring$;

-- Writers call it by the table they write to, whoever they are.
grant execute on function :"schema".ring_asleep(regclass) to public;
