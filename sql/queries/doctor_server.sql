-- doctor_server: what the server and this login are like.
--
-- takes    nothing
-- returns  one row: version (int, such as 180001), login, superuser, sees_all (may see others'
--          sessions), settings fsync, full_page_writes, synchronous_commit, autovacuum and
--          track_counts (booleans; synchronous_commit as this login has it), slots_left (int:
--          connections that this login can still open), slots_of (text: by which limit), now
--          (timestamptz)
-- reads    the catalogs and pg_stat_activity
-- locks    nothing
with me as (
  select r.oid, r.rolname, r.rolsuper, r.rolconnlimit from pg_roles as r where r.rolname = current_user
),
limits (what, most, used) as (
  select 'max_connections',
         current_setting('max_connections')::int
           - case when m.rolsuper then 0
                  else current_setting('superuser_reserved_connections')::int
                       + coalesce(current_setting('reserved_connections', true)::int, 0) end,
         (select count(*) from pg_stat_activity as a where a.backend_type is null
                                                       or a.backend_type = 'client backend')
    from me as m
  union all
  select format('connection limit of the role %I', m.rolname), m.rolconnlimit,
         (select count(*) from pg_stat_activity as a where a.usesysid = m.oid)
    from me as m
   where m.rolconnlimit >= 0
  union all
  select format('connection limit of the database %I', d.datname), d.datconnlimit,
         (select count(*) from pg_stat_activity as a where a.datid = d.oid)
    from pg_database as d
   where d.datname = current_database()
     and d.datconnlimit >= 0
),
tightest as (
  select l.what, (l.most - l.used)::int as free from limits as l order by l.most - l.used limit 1
)
select current_setting('server_version_num')::int as version,
       m.rolname::text as login,
       m.rolsuper as superuser,
       m.rolsuper or pg_has_role('pg_read_all_stats', 'usage') as sees_all,
       current_setting('fsync')::boolean as fsync,
       current_setting('full_page_writes')::boolean as full_page_writes,
       current_setting('synchronous_commit') <> 'off' as synchronous_commit,
       current_setting('autovacuum')::boolean as autovacuum,
       current_setting('track_counts')::boolean as track_counts,
       t.free as slots_left,
       t.what as slots_of,
       clock_timestamp() as now
  from me as m, tightest as t
