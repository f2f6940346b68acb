-- trigger: what an adopted table's new rows do, in the transaction that writes them.
--
-- takes    schema; table; function; owner, the outbox's; target, the outbox or where rows wait during
--          a backfill; body, a dollar-quote; mapped, an expression for each column; source and each,
--          by statement, or for a partitioned table by row
-- locks    the table against writers, for a moment
--
-- The function writes in its owner's name, so the application needs no right on the outbox, and finds
-- only Postgres's own names, whatever the path of who calls it. A plain INSERT, so the outbox's CHECK
-- says what is refused; an idempotency_key that the outbox holds is passed over, as by emit. Once a
-- statement: an INSERT of 1,000 rows costs a third of what a trigger by row costs. On a partitioned
-- table that one would not see what is written to a partition.
create or replace function :"schema".:"function"() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as :body
begin
  insert into :"schema".:"target" (subject, key, payload, payload_bytes, headers, idempotency_key)
  select :mapped
    from :source as r
  on conflict do nothing;
  return null;
end
:body;
alter function :"schema".:"function"() owner to :"owner";
revoke all on function :"schema".:"function"() from public;

create or replace trigger relay_adopt after insert on :"table"
  :each execute function :"schema".:"function"();
