-- report: leave word of the leader's breakers, if its term still lasts.
--
-- takes    epoch; lag_breaker, bus_breaker (text)
-- returns  nothing
-- locks    the cursor row
update :"schema".cursor
   set lag_breaker = %(lag_breaker)s::text,
       bus_breaker = %(bus_breaker)s::text
 where epoch = %(epoch)s::bigint
