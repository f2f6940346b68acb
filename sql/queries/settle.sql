-- settle: move the cursor, if this term still lasts (R-LOSS, R-TERM).
--
-- takes    epoch, holder: the term; base, target, last_id: where to read on
-- returns  one row with the epoch; none if another term has begun
-- locks    the cursor row
update :"schema".cursor
   set base = %(base)s::pg_snapshot,
       target = %(target)s::pg_snapshot,
       last_id = %(last_id)s::bigint,
       settled_at = clock_timestamp()
 where epoch = %(epoch)s::bigint
   and holder = %(holder)s::text
returning epoch
