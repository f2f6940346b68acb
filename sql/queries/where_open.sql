-- where_open: who has written to the outbox and not committed, and whether an id was ever given.
--
-- takes    id (bigint): of an event that no one sees; null if only its name is known
-- returns  given (whether the sequence has given the id; null without one), and for each open
--          writer pid (null for a prepared transaction), gid (the prepared transaction's), login,
--          application, state, began_at: null where this login may not see them; one row of nulls
--          if nobody writes
-- reads    pg_locks, pg_stat_activity, pg_prepared_xacts, the outbox's sequence
-- locks    nothing
--
-- Whoever has inserted holds a RowExclusiveLock on the outbox until the transaction ends; so does
-- the relay while it prunes, which is left out by its name.
with writer as (
  select distinct l.pid, l.virtualtransaction, a.usename::text as login,
         a.application_name as application, a.state, a.xact_start as began_at
    from pg_locks as l
    left join pg_stat_activity as a on a.pid = l.pid
   where l.locktype = 'relation'
     and l.database = (select d.oid from pg_database as d where d.datname = current_database())
     and l.relation = (quote_ident(:'schema') || '.outbox')::regclass::oid
     and l.mode = 'RowExclusiveLock'
     and l.granted
     and l.pid is distinct from pg_backend_pid()
     and not starts_with(coalesce(a.application_name, ''), 'relay ')
)
select case when %(id)s::bigint is not null then
         %(id)s::bigint <= (
           select coalesce(pg_sequence_last_value(
             pg_get_serial_sequence(quote_ident(:'schema') || '.outbox', 'id')::regclass), 0))
       end as given,
       w.pid,
       (select x.gid from pg_prepared_xacts as x
         where w.pid is null and '-1/' || x.transaction::text = w.virtualtransaction) as gid,
       w.login, w.application, w.state, w.began_at
  from (select) as always
  left join writer as w on true
 order by w.began_at, w.pid
