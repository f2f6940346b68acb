-- fence: which parked events the later ones of their key may not pass (R-ORDER).
--
-- takes    schema (psql variable)
-- columns  key, id, dead
-- locks    nothing
--
-- The SQL half of relay/core/order.py. An event of a key with id n waits while the fence has a row
-- of its key with a lower id that is not dead (or, with RELAY_ON_DEAD=block, that is). Every query
-- that asks "may this one pass?" asks this view.
set search_path = pg_catalog, pg_temp;

create or replace view :"schema".fence as
select p.key, p.id, p.dead_at is not null as dead
  from :"schema".parked as p
 where p.key is not null;
