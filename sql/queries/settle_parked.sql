-- settle_parked: count what came of the parked, if this term still lasts; the cursor stays.
--
-- takes    epoch; delivered, refused, and wakes by cause since the settlement before
-- returns  one row with the epoch; none if another term has begun
-- locks    the cursor row
update :"schema".cursor
   set settled_at = clock_timestamp(),
       delivered = delivered + %(delivered)s::bigint,
       refused = refused + %(refused)s::bigint,
       wakes_bell = wakes_bell + %(wakes_bell)s::bigint,
       wakes_grant = wakes_grant + %(wakes_grant)s::bigint,
       wakes_poll = wakes_poll + %(wakes_poll)s::bigint
 where epoch = %(epoch)s::bigint
returning epoch
