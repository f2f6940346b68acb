-- where: what the outbox says of some events, in one snapshot.
--
-- takes    id (bigint), event_id (text of a uuid), idempotency_key, key, trace (text): one of them,
--          the others null; prefix (text): RELAY_MESSAGE_ID_PREFIX; limit_rows (bigint)
-- returns  the newest limit_rows events of that name: id, event_id, message_id, subject, key,
--          created_at, xid, committed_at (null unless track_commit_timestamp is on), fate (as in
--          audit_fates), attempts, next_attempt_at, last_error, last_code, dead_at, held_by,
--          waits_for (the parked event of its key that goes first)
-- reads    the outbox by id or idempotency_key; by anything else all of it
-- locks    nothing
select o.id, o.event_id::text,
       :"schema".message_id(%(prefix)s::text, o.idempotency_key, o.event_id,
                            coalesce(p.retries, 0)) as message_id,
       o.subject, o.key, o.created_at, o.xid::text,
       case when current_setting('track_commit_timestamp') = 'on'
            then pg_xact_commit_timestamp(o.xid::xid) end as committed_at,
       case when p.dead_at is not null then 'dead'
            when p.event_id is not null then 'parked'
            when pg_visible_in_snapshot(o.xid, c.base)
              or (o.id <= c.last_id and pg_visible_in_snapshot(o.xid, c.target)) then 'settled'
            else 'pending' end as fate,
       p.attempts, p.next_attempt_at, p.last_error, p.last_code, p.dead_at, p.held_by,
       case when p.dead_at is null then
         (select min(e.id) from :"schema".parked as e
           where e.key = p.key and e.id < p.id and e.dead_at is null)
       end as waits_for
  from (
    select s.*
      from :"schema".outbox as s
     where s.id = %(id)s::bigint
        or s.event_id = %(event_id)s::text::uuid
        or s.idempotency_key = %(idempotency_key)s::text
        or s.key = %(key)s::text
        or strpos(s.headers ->> 'traceparent', %(trace)s::text) > 0
     order by s.id desc
     limit %(limit_rows)s::bigint
  ) as o
 cross join :"schema".cursor as c
  left join :"schema".parked as p on p.event_id = o.event_id
 order by o.id
