-- refuse_truncate: keep what the parked events refer to (R-LOSS).
--
-- takes    the trigger's table
-- returns  nothing; raises restrict_violation (23001) while anything is parked
-- locks    nothing
--
-- A parked event has its subject, key and payload in the outbox. See sql/triggers/refuse_truncate.sql.
set search_path = pg_catalog, pg_temp;

create or replace function :"schema".refuse_truncate() returns pg_catalog.trigger
language plpgsql volatile
as $refuse$
declare
  is_referred_to pg_catalog.bool;
begin
  execute pg_catalog.format('select exists (select from %I.parked)', tg_table_schema)
    into is_referred_to;
  if is_referred_to then
    raise exception 'parked events refer to rows of %', tg_relid::pg_catalog.regclass
      using errcode = 'restrict_violation',
            hint = 'let them be stored, or drop the dead ones: python -m relay dead list --parked';
  end if;
  return null;
end
$refuse$;
