-- doctor_outbox: the outbox's trigger, vacuum and cursor.
--
-- takes    nothing
-- returns  one row: trigger (text: pg_trigger.tgenabled of relay_notify), queue (float8: how full the
--          NOTIFY queue is, from 0 to 1), dead_rows (bigint), vacuumed_at (timestamptz, the last
--          autovacuum), vacuum_is_off (boolean, for this table), size_bytes (bigint), same_cluster
--          (boolean: the cursor's transaction ids are this cluster's)
-- reads    the catalogs, statistics and the cursor
-- locks    nothing
with outbox as (
  select (quote_ident(:'schema') || '.outbox')::regclass as oid
)
select (select t.tgenabled::text
          from pg_trigger as t
         where t.tgrelid = o.oid
           and t.tgname = 'relay_notify') as trigger,
       pg_notification_queue_usage() as queue,
       coalesce(pg_stat_get_dead_tuples(o.oid), 0) as dead_rows,
       pg_stat_get_last_autovacuum_time(o.oid) as vacuumed_at,
       exists (select
                 from pg_options_to_table(c.reloptions) as option
                where option.option_name = 'autovacuum_enabled'
                  and not option.option_value::boolean) as vacuum_is_off,
       pg_total_relation_size(o.oid) as size_bytes,
       (select k.system_identifier from :"schema".cursor as k)
         = (select s.system_identifier from pg_control_system() as s) as same_cluster
  from outbox as o
  join pg_class as c on c.oid = o.oid
