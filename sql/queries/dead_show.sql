-- dead_show: one parked event with everything that is known of it.
--
-- takes    id (bigint) or event_id (text of a uuid); the other one is null
-- returns  at most two rows, for an event_id is unique only if its producer keeps it so: the columns
--          of dead_list, then message_id (under which it is tried next), retried_at, retried_by,
--          headers, errors (a JSON array), is_json (which kind the payload is), payload as bytes
-- reads    the primary key, or the parked once over
-- locks    nothing
select p.id, p.event_id::text, p.subject, p.key, p.attempts, p.retries, p.created_at,
       p.first_refused_at, p.last_refused_at, p.next_attempt_at, p.dead_at, p.held_by,
       p.last_error, p.last_code,
       case when p.dead_at is null then
         coalesce(
           (select min(e.id) from :"schema".parked as e
             where e.key = p.key and e.id < p.id and e.dead_at is null),
           case when p.next_attempt_at is null then
             (select min(e.id) from :"schema".parked as e where e.key = p.key and e.id < p.id)
           end
         )
       end as waits_for,
       coalesce(p.idempotency_key, p.event_id::text)
         || case when p.retries > 0 then '-retry-' || p.retries else '' end as message_id,
       p.retried_at, p.retried_by, p.headers, p.errors,
       p.payload is not null as is_json,
       coalesce(p.payload_bytes, convert_to(p.payload::text, 'UTF8')) as payload
  from :"schema".parked as p
 where p.id = %(id)s::bigint
    or p.event_id = %(event_id)s::text::uuid
 order by p.id
 limit 2
