-- doctor_standby: is this a standby, and whom does it follow?
--
-- takes    nothing
-- returns  one row: recovering (boolean), host and port (of its primary; null where this login may not
--          see them, or where it follows nobody)
-- reads    pg_stat_wal_receiver
-- locks    nothing
select pg_is_in_recovery() as recovering, r.sender_host as host, r.sender_port as port
  from (select) as one
  left join pg_stat_wal_receiver as r on true
