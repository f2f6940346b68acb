-- page: the next page of a backlog's window.
--
-- takes    base, target (pg_snapshot): the window holds what became visible between the two;
--          last_id (bigint): the page begins behind it; limit_rows (int), limit_bytes (bigint)
-- returns  events in the order of id, and the running size in bytes up to and with each;
--          the page ends with the first event that reaches limit_bytes, so one event over the
--          bound is a page of its own
-- reads    the primary key from last_id on; rows outside the window are passed over, so all pages
--          of a window together walk the key once
-- locks    nothing
--
-- The window's lower bound is written as a function, not as a range of xid, on purpose: it can't
-- match the index (xid, id), whose order would cost a sort of the whole window for every page.
select p.id, p.event_id::text, coalesce(p.idempotency_key, p.event_id::text), p.subject, p.key,
       p.created_at, p.headers::text,
       coalesce(p.payload_bytes, convert_to(p.payload::text, 'UTF8')),
       p.running_bytes
  from (
    select o.*,
           b.bytes,
           sum(b.bytes) over (order by o.id rows unbounded preceding) as running_bytes
      from :"schema".outbox as o
     cross join lateral (
       select (
         coalesce(pg_column_size(o.headers), 0)
         + case
             when o.payload is not null then
               case when pg_column_compression(o.payload) is null
                    then pg_column_size(o.payload)
                    else octet_length(o.payload::text) end
             else octet_length(o.payload_bytes)
           end
       )::int as bytes  -- not bigint: its sum would be numeric, which is slow to send
     ) as b
     where o.id > %(last_id)s::bigint
       and not pg_visible_in_snapshot(o.xid, %(base)s::pg_snapshot)
       and pg_visible_in_snapshot(o.xid, %(target)s::pg_snapshot)
     order by o.id
     limit %(limit_rows)s::bigint
  ) as p
 where p.running_bytes - p.bytes < %(limit_bytes)s::bigint
 order by p.id
