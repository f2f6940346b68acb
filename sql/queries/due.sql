-- due: parked events that may be tried now, each behind all earlier ones of its key.
--
-- takes    without (text[]): outages whose events are left out; limit_rows (bigint), limit_bytes
--          (bigint); dead_blocks (boolean): a dead event blocks its key; longest (float8): s, a
--          next attempt later than that was set before the clock went back, and is due; prefix
--          (text, of message ids); bare (boolean): leave out what might not be readable
-- returns  events in the order of id, with a message id of their own if a person had them tried or
--          published again; attempts; held_by; age (s since the first refusal, 0 if there was none);
--          gone (boolean): the row that is referred to is not in the outbox; replay: the replay that
--          publishes it again, or null
-- reads    for each outage the beginning of the index of what is due, by 1,000 entries or
--          limit_rows; for each key found there the index (key, id) to the first that is not due;
--          the outbox for those returned
-- locks    what it puts back: seldom anything
--
-- The longest due come first, one a key; room that is left goes to those behind them, evenly.
-- Whether an earlier event of the key stands before one is asked of the view fence (R-ORDER).
--
-- "between" and "order by key, id limit 1", for "=" and "exists" would let the planner walk any
-- other index until it meets one: of a table of a single key's events it expects that soon. The plan
-- is made while both tables are empty, and stays. Rows found once are read again where they are.
--
-- An event that is due by itself, but stands behind another one of its key, is put back among those
-- that wait, to be due when that one is gone: else the blocked, many of them, would stand before
-- the others for good. A person's retry and a change of dead_blocks make such events.
with recursive outage (held_by) as (
  (select p.held_by
     from :"schema".parked as p
    where p.dead_at is null and p.next_attempt_at is not null
    order by p.held_by
    limit 1)
  union all
  select (select p.held_by
            from :"schema".parked as p
           where p.dead_at is null and p.next_attempt_at is not null and p.held_by > o.held_by
           order by p.held_by
           limit 1)
    from outage as o
   where o.held_by is not null
),
head as materialized (
  select h.id, h.place, h.key, h.next_attempt_at,
         h.key is not null
         and ((select true from :"schema".fence as f
                where f.key between h.key and h.key and f.id < h.id and not f.dead
                order by f.key, f.id
                limit 1) is not null
              or %(dead_blocks)s::boolean
                 and (select true from :"schema".fence as f
                       where f.key between h.key and h.key and f.id < h.id and f.dead
                       order by f.key, f.id
                       limit 1) is not null) as blocked
    from outage as o
   cross join lateral (
     (select p.id, p.ctid as place, p.key, p.next_attempt_at
        from :"schema".parked as p
       where p.dead_at is null
         and p.held_by = o.held_by
         and p.next_attempt_at <= statement_timestamp()
       order by p.next_attempt_at, p.id
       limit greatest(%(limit_rows)s::bigint, 1000))
     union all
     (select p.id, p.ctid as place, p.key, p.next_attempt_at
        from :"schema".parked as p
       where p.dead_at is null
         and p.held_by = o.held_by
         and p.next_attempt_at > statement_timestamp() + make_interval(secs => %(longest)s::float8)
       order by p.next_attempt_at, p.id
       limit greatest(%(limit_rows)s::bigint, 1000))
   ) as h
   where o.held_by is not null
     and o.held_by <> all (%(without)s::text[])
),
put_back as (
  update :"schema".parked as p
     set next_attempt_at = null
    from head as h
   where h.blocked
     and p.ctid = h.place
     and (p.dead_at is null) is true  -- so written it invites no walk along an index of the live
),
first as materialized (
  select h.id, h.place, h.key
    from head as h
   where not h.blocked
   order by h.next_attempt_at, h.id
   limit %(limit_rows)s::bigint
),
chosen as materialized (
  select f.place, f.id, 1::bigint as depth from first as f where f.key is null
  union all
  select r.place, r.id, r.depth
    from first as f
   cross join lateral (
     select b.place,
            b.id,
            row_number() over inwards as depth,
            bool_or(b.id > f.id and (
              b.held_by = any (%(without)s::text[])
              or b.next_attempt_at > statement_timestamp()
                 and b.next_attempt_at
                     <= statement_timestamp() + make_interval(secs => %(longest)s::float8)
              or %(dead_blocks)s::boolean
                 and exists (select from :"schema".fence as e  -- between two live ones: a dead one
                              where e.key = f.key and e.id > b.id_before and e.id < b.id
                                and e.dead)
            )) over inwards as stopped
       from (
         select p.ctid as place, p.id, p.held_by, p.next_attempt_at,
                lag(p.id) over (order by p.id) as id_before
           from :"schema".parked as p
          where p.key = f.key
            and p.id >= f.id
            and p.dead_at is null
          order by p.key, p.id
          limit (select %(limit_rows)s::bigint / count(*) from first)
       ) as b
     window inwards as (order by b.id rows unbounded preceding)
   ) as r
   where f.key is not null
     and not r.stopped
)
select d.id, d.event_id::text,
       :"schema".message_id(%(prefix)s::text, d.idempotency_key, d.event_id, d.retries,
                            case when not d.same_id then d.replay end),
       d.subject, d.key,
       case when not %(bare)s::boolean then d.created_at end,
       case when not %(bare)s::boolean then
         :"schema".message_headers(d.headers, d.ttl, d.replay)::text
       end,
       case when not %(bare)s::boolean
            then coalesce(d.payload_bytes, convert_to(d.payload::text, 'UTF8')) end,
       d.attempts, d.held_by,
       case when d.attempts = 0 then 0
            else greatest(extract(epoch from statement_timestamp() - d.first_refused_at), 0)
       end::float8 as age,
       d.gone, d.replay
  from (
    select p.id, p.event_id, p.subject, coalesce(o.key, p.key) as key, p.attempts, p.retries,
           p.held_by, p.first_refused_at, p.replay, r.same_id,
           o.id is null as gone, coalesce(o.created_at, p.created_at) as created_at,
           o.idempotency_key, o.headers, o.ttl, o.payload, o.payload_bytes,
           sum(b.bytes) over (order by c.depth, c.id rows unbounded preceding) - b.bytes
             as bytes_before
      from chosen as c
      join :"schema".parked as p on p.ctid = c.place
      left join lateral (
        select o.*
          from :"schema".outbox as o
         where o.id between p.id and p.id
           and o.event_id = p.event_id
         order by o.id
         limit 1
      ) as o on true
      left join :"schema".replay as r on r.id = p.replay
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
       )::int as bytes
     ) as b
  ) as d
 where d.bytes_before < %(limit_bytes)s::bigint
 order by d.id, d.event_id
