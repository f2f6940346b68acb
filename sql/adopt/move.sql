-- move: the next waiting rows go into the outbox, in their order.
--
-- takes    schema; rows; after, an id; limit, how many, or null for all
-- returns  how many moved, and the last one's id
-- locks    these rows
with page as (
  delete from :"schema".:"rows" as w
   where w.id in (select n.id from :"schema".:"rows" as n where n.id > :after order by n.id limit :limit)
  returning w.*
),
moved as (
  insert into :"schema".outbox (created_at, subject, key, payload, payload_bytes, headers, idempotency_key)
  select p.created_at, p.subject, p.key, p.payload, p.payload_bytes, p.headers, p.idempotency_key
    from page as p
   order by p.id
  on conflict do nothing
)
select count(*) as moved, max(p.id) as last_id from page as p;
