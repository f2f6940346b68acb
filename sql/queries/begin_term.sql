-- begin_term: raise the epoch, which makes every settlement of an earlier term fail.
--
-- takes    holder (text): who leads, for people
-- returns  the new epoch, where to read on (base, target, last_id), and whether the stored
--          transaction ids belong to this cluster
-- locks    the cursor row
update :"schema".cursor as c
   set epoch = c.epoch + 1,
       holder = %(holder)s::text,
       term_began_at = clock_timestamp(),
       lag_breaker = null,
       bus_breaker = null,
       system_identifier = coalesce(c.system_identifier, s.system_identifier)
  from pg_control_system() as s
returning c.epoch, c.base::text, c.target::text, c.last_id,
          c.system_identifier = s.system_identifier as same_cluster
