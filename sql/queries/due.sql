-- due: parked events that may be tried now, each behind all earlier ones of its key.
--
-- takes    without (text[]): outages whose events are left out; limit_rows (bigint), limit_bytes
--          (bigint); dead_blocks (boolean): a dead event blocks its key; longest (float8): s, a
--          next attempt later than that was set before the clock went back, and is due
-- returns  events in the order of id, with a message id of their own if a person had them tried
--          again; attempts; held_by
-- reads    for each outage the beginning of the index of what is due, by 1,000 entries or
--          limit_rows; for each key found there the index (key, id) to the first that is not due
-- locks    what it puts back: seldom anything
--
-- The longest due come first, one a key; room that is left goes to those behind them, evenly.
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
  select h.id, h.key, h.next_attempt_at,
         h.key is not null
         and (exists (select from :"schema".parked as e
                       where e.key = h.key and e.id < h.id and e.dead_at is null)
              or %(dead_blocks)s::boolean
                 and exists (select from :"schema".parked as e
                              where e.key = h.key and e.id < h.id)) as blocked
    from outage as o
   cross join lateral (
     (select p.id, p.key, p.next_attempt_at
        from :"schema".parked as p
       where p.dead_at is null
         and p.held_by = o.held_by
         and p.next_attempt_at <= statement_timestamp()
       order by p.next_attempt_at, p.id
       limit greatest(%(limit_rows)s::bigint, 1000))
     union all
     (select p.id, p.key, p.next_attempt_at
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
     and p.id = h.id
),
first as materialized (
  select h.id, h.key
    from head as h
   where not h.blocked
   order by h.next_attempt_at, h.id
   limit %(limit_rows)s::bigint
),
chosen as materialized (
  select f.id, 1::bigint as depth from first as f where f.key is null
  union all
  select r.id, r.depth
    from first as f
   cross join lateral (
     select b.id,
            row_number() over inwards as depth,
            bool_or(b.id > f.id and (
              b.held_by = any (%(without)s::text[])
              or b.next_attempt_at > statement_timestamp()
                 and b.next_attempt_at
                     <= statement_timestamp() + make_interval(secs => %(longest)s::float8)
              or %(dead_blocks)s::boolean
                 and exists (select from :"schema".parked as e  -- between two live ones: a dead one
                              where e.key = f.key and e.id > b.id_before and e.id < b.id)
            )) over inwards as stopped
       from (
         select p.id, p.held_by, p.next_attempt_at, lag(p.id) over (order by p.id) as id_before
           from :"schema".parked as p
          where p.key = f.key
            and p.id >= f.id
            and p.dead_at is null
          order by p.id
          limit (select %(limit_rows)s::bigint / count(*) from first)
       ) as b
     window inwards as (order by b.id rows unbounded preceding)
   ) as r
   where f.key is not null
     and not r.stopped
)
select d.id, d.event_id::text,
       coalesce(d.idempotency_key, d.event_id::text)
         || case when d.retries > 0 then '-retry-' || d.retries else '' end,
       d.subject, d.key, d.created_at, d.headers::text,
       coalesce(d.payload_bytes, convert_to(d.payload::text, 'UTF8')),
       d.attempts, d.held_by
  from (
    select p.*,
           sum(b.bytes) over (order by c.depth, c.id rows unbounded preceding) - b.bytes
             as bytes_before
      from chosen as c
      join :"schema".parked as p on p.id = c.id
     cross join lateral (
       select (
         coalesce(pg_column_size(p.headers), 0)
         + case
             when p.payload is not null then
               case when pg_column_compression(p.payload) is null
                    then pg_column_size(p.payload)
                    else octet_length(p.payload::text) end
             else octet_length(p.payload_bytes)
           end
       )::int as bytes
     ) as b
  ) as d
 where d.bytes_before < %(limit_bytes)s::bigint
 order by d.id
