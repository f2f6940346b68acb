-- triggers_of_0002: functions for migration 0002 to name when it makes its two triggers.
--
-- takes    nothing
-- returns  what lets the row pass
-- locks    nothing
--
-- Later migrations drop both triggers, and do otherwise what they did: see 0007_doorbell and
-- 0008_poison.
create or replace function :"schema".ring() returns trigger
language plpgsql
as $ring$
begin
  return null;
end
$ring$;

create or replace function :"schema".refuse_poison() returns trigger
language plpgsql
as $poison$
begin
  return new;
end
$poison$;

-- A trigger function needs no EXECUTE to be fired.
revoke all on function :"schema".ring() from public;
revoke all on function :"schema".refuse_poison() from public;
