-- notify: ring the bell: wake the relay on commit. Called by a trigger, and only if it sleeps.
--
-- takes    the trigger's table
-- returns  nothing; sends NOTIFY "<schema>.outbox" with an empty payload
-- locks    at commit, NOTIFY's cluster-wide lock
--
-- See sql/triggers/relay_notify.sql. R-FIRST: the bell may fail, a commit may not. A NOTIFY queue
-- that is full, or a channel's name that is too long, would fail it. The channel's name is looked
-- up, not stored: it is right again when the schema was renamed.
--
-- Runs with the producer's rights and search_path, so every name and operator is qualified.
set search_path = pg_catalog, pg_temp;

create or replace function :"schema".notify() returns pg_catalog.trigger
language plpgsql volatile
as $notify$
begin
  if pg_catalog.pg_notification_queue_usage() operator(pg_catalog.<) 0.5
     and pg_catalog.octet_length(tg_table_schema::pg_catalog.text) operator(pg_catalog.<=) 56
  then
    -- identical notifications of one transaction are sent once
    perform pg_catalog.pg_notify(pg_catalog.concat(tg_table_schema, '.outbox'), '');
  end if;
  return null;
end
$notify$;
