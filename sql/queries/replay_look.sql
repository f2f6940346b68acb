-- replay_look: what a replay would publish, before anything is done.
--
-- takes    base (pg_snapshot): what it sees was delivered, null for the settled one; from_id, to_id
--          (bigint), since, until (timestamptz, the second exclusive), key, subject (a regular
--          expression), event_ids (text[] of uuids) and idempotency_keys (text[]): null asks for
--          nothing; window (float8): s, the stream's duplicate window
-- returns  events: how many match, are delivered and not parked; first_id, last_id, first_at, last_at:
--          the range of all that match and are delivered; parked: how many of these are parked;
--          waiting: how many match and are not delivered yet; young: how many of events may have been
--          stored within the window; matching: how many match in all; lowest_id, lowest_at: of the first
--          event that the outbox holds
-- reads    the outbox from from_id to to_id; for those that match the index of the parked
-- locks    nothing
--
-- An event was stored before the mark that sees it, so one that is seen by a mark as old as the window
-- is outside it, unless a person had it retried, or replayed under the same id, since. One that was
-- parked, and stored late by itself, may be younger than it looks.
--
-- The conditions are those of replay_list.
with place as materialized (
  select k.base,
         case when %(window)s::float8 > 0
              then clock_timestamp() - make_interval(secs => %(window)s::float8 + 60) end as since,
         (select s.base
            from :"schema".settled as s
           where s.settled_at <= clock_timestamp() - make_interval(secs => %(window)s::float8)
           order by s.settled_at desc
           limit 1) as old
    from :"schema".cursor as k
   where k.system_identifier = (select c.system_identifier from pg_control_system() as c)
),
again as materialized (
  select r.first_id, r.last_id
    from :"schema".replay as r, place as p
   where r.same_id
     and coalesce(r.ended_at, r.kept_until) > p.since
),
matching as (
  select o.id, o.created_at,
         pg_visible_in_snapshot(o.xid, p.base)
         and pg_visible_in_snapshot(o.xid, coalesce(%(base)s::pg_snapshot, p.base)) as delivered,
         coalesce(pg_visible_in_snapshot(o.xid, p.old), false)
         and not exists (select from again as a where o.id between a.first_id and a.last_id)
         and not exists (select from :"schema".decision as d
                          where p.since is not null and d.event_id = o.event_id
                            and d.decided_at > p.since) as old,
         exists (select from :"schema".parked as q
                  where q.id = o.id and q.event_id = o.event_id) as parked
    from place as p
    join :"schema".outbox as o on true
   where o.id between %(from_id)s::bigint and %(to_id)s::bigint
     and (%(since)s::timestamptz is null or o.created_at >= %(since)s::timestamptz)
     and (%(until)s::timestamptz is null or o.created_at < %(until)s::timestamptz)
     and (%(key)s::text is null or o.key = %(key)s::text)
     and (%(subject)s::text is null or o.subject ~ %(subject)s::text)
     and (%(event_ids)s::text[] is null
          or o.event_id = any (%(event_ids)s::text[]::uuid[])
          or o.idempotency_key = any (%(idempotency_keys)s::text[]))
)
select count(*) filter (where m.delivered and not m.parked) as events,
       min(m.id) filter (where m.delivered) as first_id,
       max(m.id) filter (where m.delivered) as last_id,
       min(m.created_at) filter (where m.delivered) as first_at,
       max(m.created_at) filter (where m.delivered) as last_at,
       count(*) filter (where m.delivered and m.parked) as parked,
       count(*) filter (where not m.delivered) as waiting,
       count(*) filter (where m.delivered and not m.parked and not m.old) as young,
       count(*) as matching,
       (select min(o.id) from :"schema".outbox as o) as lowest_id,
       (select o.created_at from :"schema".outbox as o order by o.id limit 1) as lowest_at
  from matching as m
