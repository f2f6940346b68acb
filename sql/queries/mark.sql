-- mark: note what is settled now, so that retention can count from there.
--
-- takes    retention (interval); jump (interval): by how much the clock has jumped since this relay
--          looked at it last; marks move with it, so that their age stays what it was; at (tid, or
--          null): where the cursor row was last
-- returns  now (timestamptz)
-- reads    the marks: about twenty
-- locks    the marks it deletes and shifts; when the clock was put forward, what left the parked and
--          the checkpoints, which keep their age, too
--
-- A mark is due after a sixteenth of the retention. One that is newer than the clock is of a time
-- that has not come: it goes, and retention begins again for what it stood for. Of those past
-- retention only the newest is of use.
with clock as materialized (
  select clock_timestamp() as now
),
marks as materialized (
  select s.settled_at, s.settled_at + %(jump)s::interval as moved_to from :"schema".settled as s
),
usable as materialized (
  select m.settled_at, m.moved_to
    from marks as m, clock as c
   where m.moved_to <= c.now
     and m.moved_to >= coalesce(
           (select max(o.moved_to) from marks as o where o.moved_to <= c.now - %(retention)s::interval),
           '-infinity')
),
gone as (
  delete from :"schema".settled as s
   where not exists (select from usable as u where u.settled_at = s.settled_at)
),
moved as (
  update :"schema".settled as s
     set settled_at = u.moved_to
    from usable as u
   where u.settled_at = s.settled_at
     and u.moved_to <> u.settled_at
),
kept as (
  update :"schema".unparked as u
     set unparked_at = least(u.unparked_at + %(jump)s::interval, c.now)
    from clock as c
   where %(jump)s::interval > '0'
),
checked as (
  update :"schema".checkpoint as k
     set settled_at = least(k.settled_at + %(jump)s::interval, c.now)
    from clock as c
   where %(jump)s::interval > '0'
),
noted as (
  insert into :"schema".settled (settled_at, base)
  select c.now, k.base
    from clock as c, :"schema".cursor as k
   where k.ctid = coalesce((select c.ctid from :"schema".cursor as c where c.ctid = %(at)s::tid),
                           (select c.ctid from :"schema".cursor as c))
     and not exists (
           select from usable as u where u.moved_to > c.now - %(retention)s::interval / 16
         )
      on conflict (settled_at) do nothing
)
select c.now from clock as c
