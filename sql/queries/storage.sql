-- storage: what the outbox takes up, and how long vacuum has been held back.
--
-- takes    nothing
-- returns  one row: size_bytes (the outbox table with indexes and TOAST), dead_rows (as the
--          statistics know them), oldest_transaction (s, age of the oldest transaction of this
--          database that holds back vacuum, 0 if there is none; null if one belongs to a role
--          whose sessions we may not see)
-- reads    file sizes, pg_stat_activity and pg_prepared_xacts; no row of the outbox
-- locks    nothing
--
-- Whoever reads holds back vacuum a little: that is us, and so we are left out. Vacuum does not
-- wait for vacuum.
with holding as (
  select clock_timestamp() - a.xact_start as age
    from pg_stat_activity as a
   where a.datname = current_database()
     and a.pid <> pg_backend_pid()
     and (a.backend_xmin is not null or a.backend_xid is not null)
     and a.backend_type is distinct from 'autovacuum worker'
  union all
  select clock_timestamp() - p.prepared
    from pg_prepared_xacts as p
   where p.database = current_database()
)
select pg_total_relation_size((quote_ident(:'schema') || '.outbox')::regclass) as size_bytes,
       coalesce(
         pg_stat_get_dead_tuples((quote_ident(:'schema') || '.outbox')::regclass), 0
       ) as dead_rows,
       (
         select case when bool_or(h.age is null) then null
                     else coalesce(extract(epoch from greatest(max(h.age), interval '0')), 0)
                end::float8
           from holding as h
       ) as oldest_transaction
