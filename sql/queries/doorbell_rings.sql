-- doorbell_rings: whether writers ring.
--
-- takes    schema (psql variable)
-- returns  one row: whether the default of xid rings
-- locks    nothing
select pg_get_expr(d.adbin, d.adrelid) like '%ring_asleep%'
  from pg_attrdef as d
  join pg_attribute as a on a.attrelid = d.adrelid and a.attnum = d.adnum
 where d.adrelid = format('%I.outbox', :'schema')::regclass and a.attname = 'xid'
