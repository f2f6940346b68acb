-- adopt_cluster: begin anew after the rows came here from another cluster (dump and restore,
-- upgrade, logical replication), whose transaction ids mean nothing in this one.
--
-- takes    epoch (bigint): this term's
-- returns  one row with the number of rows stamped anew; none if the term is over
-- locks    the cursor row; every outbox row, once (this is the one update they ever see)
--
-- Every retained row becomes new again: repeats are possible then, loss is not.
with mine as (
  update :"schema".cursor as c
     set base = '1:1:', target = null, last_id = 0,
         system_identifier = (select s.system_identifier from pg_control_system() as s)
   where c.epoch = %(epoch)s::bigint
  returning c.epoch
),
stamped as (
  update :"schema".outbox as o set xid = pg_current_xact_id() from mine
  returning 1
)
select (select count(*) from stamped) as stamped from mine
