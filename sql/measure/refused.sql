-- refused: why `relay measure` must not write to this database now.
--
-- takes    nothing
-- returns  why (text), a row for each reason; none: it may
-- reads    the catalogs and pg_stat_activity
-- locks    nothing
select format('the publication %s is for all tables, and a subscriber would stop at one that it does '
              'not have', p.pubname) as why
  from pg_publication as p
 where p.puballtables
union all
select format('pg_dump is at work (pid %s), and would fail at a table that goes', a.pid)
  from pg_stat_activity as a
 where a.datname = current_database()
   and a.application_name = 'pg_dump'
