-- settle: move the cursor, if this term still lasts (R-LOSS, R-TERM).
--
-- takes    epoch, holder: the term; base, target, last_id: where to read on; base null leaves the
--          cursor where it is, and only keeps others from beginning a term while the parked change
-- returns  one row with the epoch; none if another term has begun
-- locks    the cursor row
update :"schema".cursor
   set base = coalesce(%(base)s::pg_snapshot, base),
       target = case when %(base)s::pg_snapshot is null then target
                     else %(target)s::pg_snapshot end,
       last_id = coalesce(%(last_id)s::bigint, last_id),
       settled_at = clock_timestamp()
 where epoch = %(epoch)s::bigint
   and holder = %(holder)s::text
returning epoch
