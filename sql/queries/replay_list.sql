-- replay_list: the events of a replay, key by key. For a cursor that is fetched from bit by bit.
--
-- takes    base (pg_snapshot): what it sees was delivered; place_first, place (bigint): the list begins
--          behind this one; the conditions of replay_look
-- returns  id; first_id: the first id of its key; goes_on (boolean): the next one is of the same key
-- reads    the outbox from from_id to to_id, once, and sorts what matches, on disk beyond work_mem
-- locks    nothing
--
-- The cursor is "with hold": the list lies in a file of the server's, and holds back no vacuum.
--
-- A key's events follow one another, and the keys go by their first event: so the list is nearly in
-- the order of time, and each key is held up for its own events alone. Parked events count for the
-- first id of their key, but are not in the list: thus the order is the same when a replay goes on.
select l.id, l.first_id,
       coalesce(lead(l.first_id) over (order by l.first_id, l.id) = l.first_id, false) as goes_on
  from (
    select o.id,
           case when o.key is null then o.id else min(o.id) over (partition by o.key) end as first_id,
           exists (select from :"schema".parked as q
                    where q.id = o.id and q.event_id = o.event_id) as parked
      from :"schema".cursor as k
      join :"schema".outbox as o on pg_visible_in_snapshot(o.xid, k.base)
     where pg_visible_in_snapshot(o.xid, %(base)s::pg_snapshot)
     and o.id between %(from_id)s::bigint and %(to_id)s::bigint
     and (%(since)s::timestamptz is null or o.created_at >= %(since)s::timestamptz)
     and (%(until)s::timestamptz is null or o.created_at < %(until)s::timestamptz)
     and (%(key)s::text is null or o.key = %(key)s::text)
     and (%(subject)s::text is null or o.subject ~ %(subject)s::text)
     and (%(event_ids)s::text[] is null
          or o.event_id = any (%(event_ids)s::text[]::uuid[])
          or o.idempotency_key = any (%(idempotency_keys)s::text[]))
  ) as l
 where not l.parked
   and (l.first_id, l.id) > (%(place_first)s::bigint, %(place)s::bigint)
 order by l.first_id, l.id
