-- adopt: the outbox came here from another cluster; begin again, with everything new.
--
-- takes    epoch, holder: the term, which must still last
-- returns  one row; none if another term has begun
-- locks    the cursor row, the checkpoints
--
-- Snapshots of the other cluster mean nothing here, those of what was settled when neither. Of the
-- checkpoints stays what tells where in each stream the oldest of these rows can be, and all behind.
with adopted as (
  update :"schema".cursor as c
     set base = '1:1:',
         target = null,
         last_id = 0,
         system_identifier = s.system_identifier
    from pg_control_system() as s
   where c.epoch = %(epoch)s::bigint
     and c.holder = %(holder)s::text
  returning c.epoch
),
forgotten as (
  delete from :"schema".settled
   where exists (select from adopted)
),
oldest as (
  select distinct on (k.stream) k.stream, k.number
    from :"schema".checkpoint as k
   order by k.stream,
            k.top_id < (select min(o.id) from :"schema".outbox as o) desc nulls last,
            case when k.top_id < (select min(o.id) from :"schema".outbox as o) then k.number
                 else - k.number end desc
),
ended as (
  update :"schema".repair set ended_at = clock_timestamp()
   where ended_at is null and exists (select from adopted)
),
dropped as (
  delete from :"schema".checkpoint as k
   where exists (select from adopted)
     and not exists (select from oldest as o where o.stream = k.stream and o.number = k.number)
),
kept as (
  update :"schema".checkpoint as k
     set base = '1:1:', target = null, last_id = 0
    from oldest as o
   where exists (select from adopted)
     and o.stream = k.stream
     and o.number = k.number
)
select a.epoch from adopted as a
