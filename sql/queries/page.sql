-- page: the next page of a backlog's window.
--
-- takes    base, target (pg_snapshot): the window holds what became visible between the two;
--          last_id, up_to (bigint): the page begins behind the one and ends with the other;
--          limit_rows (int), limit_bytes (bigint); prefix (text, of message ids); bare (boolean):
--          leave out what might not be readable
-- returns  events in the order of id, and the running size in bytes up to and with each;
--          the page ends with the first event that reaches limit_bytes, so one event over the
--          bound is a page of its own
-- reads    the primary key from last_id to up_to at most; rows outside the window are passed over.
--          That bounds the work: fewer rows than limit_rows say that the page got to up_to
-- locks    nothing
--
-- The window's lower bound is written as a function, not as a range of xid, on purpose: it can't
-- match the index (xid, id), whose order would cost a sort of the whole window for every page.
select p.id, p.event_id::text,
       :"schema".message_id(%(prefix)s::text, p.idempotency_key, p.event_id, 0), p.subject, p.key,
       case when not %(bare)s::boolean then p.created_at end,
       case when not %(bare)s::boolean then :"schema".message_headers(p.headers, p.ttl)::text end,
       case when not %(bare)s::boolean
            then coalesce(p.payload_bytes, convert_to(p.payload::text, 'UTF8')) end,
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
               case when %(bare)s::boolean or pg_column_compression(o.payload) is null
                    then pg_column_size(o.payload)
                    else octet_length(o.payload::text) end
             else coalesce(octet_length(o.payload_bytes), 0)
           end
       )::int as bytes  -- not bigint: its sum would be numeric, which is slow to send
     ) as b
     where o.id > %(last_id)s::bigint
       and o.id <= %(up_to)s::bigint
       and not pg_visible_in_snapshot(o.xid, %(base)s::pg_snapshot)
       and pg_visible_in_snapshot(o.xid, %(target)s::pg_snapshot)
     order by o.id
     limit %(limit_rows)s::bigint
  ) as p
 where p.running_bytes - p.bytes < %(limit_bytes)s::bigint
 order by p.id
