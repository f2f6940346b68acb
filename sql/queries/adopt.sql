-- adopt: the outbox came here from another cluster; begin again, with everything new.
--
-- takes    epoch, holder: the term, which must still last
-- returns  one row; none if another term has begun
-- locks    the cursor row
--
-- Snapshots of the other cluster mean nothing here, those of what was settled when neither.
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
)
select a.epoch from adopted as a
