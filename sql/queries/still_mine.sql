-- still_mine: does this term still last? Asked on the session that holds the lease.
--
-- takes    epoch; holder; at (tid, or null): where the cursor row was last
-- returns  one row; none if another term has begun
-- locks    nothing
select c.epoch
  from :"schema".cursor as c
 where c.ctid = coalesce((select k.ctid from :"schema".cursor as k where k.ctid = %(at)s::tid),
                         (select k.ctid from :"schema".cursor as k))
   and c.epoch = %(epoch)s::bigint
   and c.holder = %(holder)s::text
