-- report: leave word of the leader, if its term still lasts.
--
-- takes    epoch, holder: the term; lag_breaker, bus_breaker (text); delivered, refused, wakes_bell,
--          wakes_poll (bigint): since the term began
-- returns  nothing
-- locks    the row of the report
update :"schema".report as r
   set epoch = c.epoch,
       reported_at = clock_timestamp(),
       lag_breaker = %(lag_breaker)s::text,
       bus_breaker = %(bus_breaker)s::text,
       delivered = %(delivered)s::bigint,
       refused = %(refused)s::bigint,
       wakes_bell = %(wakes_bell)s::bigint,
       wakes_poll = %(wakes_poll)s::bigint
  from :"schema".cursor as c
 where c.epoch = %(epoch)s::bigint
   and c.holder = %(holder)s::text
