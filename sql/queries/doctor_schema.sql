-- doctor_schema: is there an outbox, and may this login look at its ledger of migrations?
--
-- takes    nothing
-- returns  one row: database (text), present (boolean: the schema is there), ledger (boolean: so is
--          its table migration), readable (boolean: this login may read that)
-- reads    the catalogs; needs no right on the schema
-- locks    nothing
select current_database()::text as database,
       n.oid is not null as present,
       c.oid is not null as ledger,
       coalesce(has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select'), false)
         as readable
  from (select :'schema'::name as name) as wanted
  left join pg_namespace as n on n.nspname = wanted.name
  left join pg_class as c on c.relnamespace = n.oid and c.relname = 'migration' and c.relkind = 'r'
