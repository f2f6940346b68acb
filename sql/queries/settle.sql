-- settle: move the cursor, if this term still lasts.
--
-- takes    epoch; base, target, last_id: where to read on; delivered, refused, and wakes by cause
--          since the settlement before
-- returns  one row with the epoch; none if another term has begun
-- locks    the cursor row
update :"schema".cursor
   set base = %(base)s::pg_snapshot,
       target = %(target)s::pg_snapshot,
       last_id = %(last_id)s::bigint,
       settled_at = clock_timestamp(),
       delivered = delivered + %(delivered)s::bigint,
       refused = refused + %(refused)s::bigint,
       wakes_bell = wakes_bell + %(wakes_bell)s::bigint,
       wakes_grant = wakes_grant + %(wakes_grant)s::bigint,
       wakes_poll = wakes_poll + %(wakes_poll)s::bigint
 where epoch = %(epoch)s::bigint
returning epoch
