-- timeline: which cluster this server is of, and its timeline, which each promotion raises.
--
-- takes    nothing
-- returns  system_identifier, timeline
-- reads    pg_control
-- locks    nothing
--
-- A promoted server's last checkpoint can be of the timeline before; until its next one, the end of
-- recovery tells.
select s.system_identifier, greatest(c.timeline_id, r.min_recovery_end_timeline) as timeline
  from pg_control_system() as s, pg_control_checkpoint() as c, pg_control_recovery() as r
