-- left: the schemas of `relay measure` that are there.
--
-- takes    pattern (a regular expression for the name) and comment, both as literals in its text
-- returns  name, a row each
-- reads    the catalogs
-- locks    nothing
select n.nspname::text as name
  from pg_namespace as n
 where n.nspname ~ :pattern
   and obj_description(n.oid, 'pg_namespace') = :comment
