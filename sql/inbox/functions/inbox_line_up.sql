-- inbox_line_up: let the first parked message of each key be due, and no other one (R-ORDER).
--
-- takes    consumer; keys: those that have changed, null for all
-- returns  nothing
-- locks    the keys (inbox_lock_keys), until the transaction ends; the rows it changes. For all keys
--          it takes no lock: the caller holds the consumer's row for update
--
-- The one place that says which parked message may be tried: the first of its key that is live, or
-- that is dead where dead messages block their keys (inbox_consumer.dead_blocks). A message without
-- a key waits for nobody. Every transaction that parks, unparks, refuses or decides ends with it.
set search_path = pg_catalog, pg_temp;

create or replace function :"schema".inbox_line_up(
  consumer text,
  keys     text[] default null
) returns void
language plpgsql volatile
set search_path = pg_catalog, :"schema", pg_temp
as $line_up$
#variable_conflict use_column
declare
  blocks constant boolean := (select c.dead_blocks from inbox_consumer as c where c.name = $1);
begin
  if $2 is null then
    keys := array(select distinct p.key from inbox_parked as p
                   where p.consumer = $1 and p.key is not null);
  else
    perform inbox_lock_keys($1, $2);  -- the update below sees all that the holder before committed
  end if;

  update inbox_parked as p
     set next_attempt_at = case when p.id = head.id then clock_timestamp() end
    from unnest($2) as k (key)
   cross join lateral (
     select f.id
       from inbox_parked as f
      where f.consumer = $1
        and f.key = k.key
        and (f.dead_at is null or blocks)
      order by f.consumer, f.key, f.id
      limit 1
   ) as head
   where p.consumer = $1
     and p.key = k.key
     and p.dead_at is null
     and (p.next_attempt_at is null and p.id = head.id
          or p.next_attempt_at is not null and p.id <> head.id);
end
$line_up$;
