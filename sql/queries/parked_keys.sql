-- parked_keys: the keys that wait, each with what stands at its head.
--
-- takes    limit_rows (bigint)
-- returns  key (text; null for events without one), events (bigint), and of the first of them id,
--          subject, attempts, next_attempt_at, held_by and last_error; in the order of that id
-- reads    2,000 entries of the index of the live at most: beyond them, it is a part
-- locks    nothing
with live as materialized (
  select p.id, p.key, p.subject, p.attempts, p.next_attempt_at, p.held_by, p.last_error
    from :"schema".parked as p
   where p.dead_at is null
   order by p.key, p.id
   limit 2000
),
heads as (
  select distinct on (l.key) l.*, count(*) over (partition by l.key) as events
    from live as l
   order by l.key, l.id
)
select h.key, h.events, h.id, h.subject, h.attempts, h.next_attempt_at, h.held_by, h.last_error
  from heads as h
 order by h.id
 limit %(limit_rows)s::bigint
