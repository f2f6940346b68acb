-- dead_show: one parked event with everything that is known of it.
--
-- takes    id (bigint) or event_id (text of a uuid); the other one is null; prefix (text):
--          RELAY_MESSAGE_ID_PREFIX
-- returns  at most two rows, for an id can come twice, once the sequence was set back: the columns
--          of dead_list up to is_gone, then message_id (under which it is tried next), retried_at,
--          retried_by, errors (a JSON array), and of the outbox's row headers, is_json (which kind
--          the payload is), payload as bytes: null if that row is gone, and
--          with it message_id, unless a retry has made it
-- reads    the primary key or the index of ids; the outbox by id
-- locks    nothing
select p.id, p.event_id::text, p.subject, p.key, p.attempts, p.retries, p.created_at,
       p.first_refused_at, p.last_refused_at, p.next_attempt_at, p.dead_at, p.held_by,
       p.last_error, p.last_code,
       case when p.dead_at is null then
         coalesce(
           (select min(e.id) from :"schema".parked as e
             where e.key = p.key and e.id < p.id and e.dead_at is null),
           case when p.next_attempt_at is null then
             (select min(e.id) from :"schema".parked as e
               where e.key = p.key and e.id < p.id and e.dead_at is not null)
           end
         )
       end as waits_for,
       o.id is null as is_gone,
       case when o.id is not null or p.retries > 0 then
         :"schema".message_id(%(prefix)s::text, o.idempotency_key, p.event_id, p.retries,
                              (select r.id from :"schema".replay as r
                                where r.id = p.replay and not r.same_id))
       end as message_id,
       p.retried_at, p.retried_by, p.errors, :"schema".message_headers(o.headers, o.ttl),
       case when o.id is not null then o.payload is not null end as is_json,
       coalesce(o.payload_bytes, convert_to(o.payload::text, 'UTF8')) as payload
  from :"schema".parked as p
  left join :"schema".outbox as o on o.id = p.id and o.event_id = p.event_id
 where p.id = %(id)s::bigint
    or p.event_id = %(event_id)s::text::uuid
 order by p.id, p.event_id
 limit 2
