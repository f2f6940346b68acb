-- page_of: a page of events that are known by their ids, where they lie far apart.
--
-- takes    ids (bigint[]): at most a page's; limit_bytes (bigint); prefix (text, of message ids);
--          bare (boolean): leave out what might not be readable
-- returns  as page
-- reads    one entry of the primary key an id
-- locks    nothing
--
-- Differs from page in how it finds its rows. One query for both would have to sort each page, for
-- the planner knows no order of ids that come from an array.
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
     where o.id = any (%(ids)s::bigint[])
  ) as p
 where p.running_bytes - p.bytes < %(limit_bytes)s::bigint
 order by p.id
