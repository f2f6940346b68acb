-- begin_term: raise the epoch, which makes every settlement of an earlier term fail (R-TERM).
--
-- takes    holder (text): who leads, another text for each term
-- returns  the new epoch, where to read on (base, target, last_id), whether the stored transaction
--          ids belong to this cluster, and from_xid (text of an xid8): the lowest one that no
--          transaction of this cluster can have used yet
-- locks    the cursor row
update :"schema".cursor as c
   set epoch = c.epoch + 1,
       holder = %(holder)s::text,
       term_began_at = clock_timestamp()
  from pg_control_system() as s
returning c.epoch, c.base::text, c.target::text, c.last_id,
          c.system_identifier = s.system_identifier as same_cluster,
          pg_snapshot_xmax(pg_current_snapshot())::text as from_xid
