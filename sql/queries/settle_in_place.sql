-- settle_in_place: keep others from beginning a term while the parked are changed; the cursor stays.
--
-- takes    epoch, holder: the term
-- returns  one row with the epoch; none if another term has begun
-- locks    the cursor row
update :"schema".cursor
   set settled_at = clock_timestamp()
 where epoch = %(epoch)s::bigint
   and holder = %(holder)s::text
returning epoch
