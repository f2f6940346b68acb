-- still_mine: does this term still last? Asked on the session that holds the lease.
--
-- takes    epoch; holder
-- returns  one row; none if another term has begun
-- locks    nothing
select c.epoch
  from :"schema".cursor as c
 where c.epoch = %(epoch)s::bigint
   and c.holder = %(holder)s::text
