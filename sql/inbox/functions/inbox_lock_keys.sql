-- inbox_lock_keys: wait for every other open change of these keys, and hold up later ones (R-ORDER).
--
-- takes    consumer; keys
-- returns  nothing
-- locks    advisory locks, in ascending order, until the transaction ends; keys share 128 of them a
--          consumer, so that no transaction fills the server's table of locks
--
-- Every change of a key's parked messages ends with inbox_line_up under this lock. So the last of
-- two changes sees the first one's rows, whenever its transaction began. Who changes rows that are
-- there already takes the lock before them; both take it behind the consumer's row. The class
-- stands in relay/postgres/sqlfiles.py as well.
set search_path = pg_catalog, pg_temp;

create or replace function :"schema".inbox_lock_keys(
  consumer text,
  keys     text[]
) returns void
language plpgsql volatile
set search_path = pg_catalog, :"schema", pg_temp
as $lock_keys$
declare
  number int;
begin
  for number in
    select distinct (hashtext($1) & ~127) | (hashtext(k.key) & 127) as n
      from unnest($2) as k (key)
     where k.key is not null
     order by n
  loop
    perform pg_advisory_xact_lock(1919247487, number);
  end loop;
end
$lock_keys$;
