-- event: one event, where it has to be known which of a page can't be read.
--
-- takes    id (bigint); event_id (text of a uuid); prefix (text, of message ids)
-- returns  the event, or no row
-- reads    one entry of the primary key
-- locks    nothing
select o.id, o.event_id::text,
       :"schema".message_id(%(prefix)s::text, o.idempotency_key, o.event_id, 0),
       o.subject, o.key, o.created_at, :"schema".message_headers(o.headers, o.ttl)::text,
       coalesce(o.payload_bytes, convert_to(o.payload::text, 'UTF8'))
  from :"schema".outbox as o
 where o.id between %(id)s::bigint and %(id)s::bigint
   and o.event_id = %(event_id)s::text::uuid
 order by o.id
 limit 1
