-- may_emit: whether there is an outbox, and what this login may do with it; for relay/producer.
--
-- takes    nothing
-- returns  is_there, may_write (its login may write events), may_migrate (it owns the outbox), login
-- locks    nothing
--
-- Asked by oid: by name, a schema without USAGE is an error.
select o.oid is not null and f.written_by is not null as is_there,
       coalesce(f.written_by and has_schema_privilege(n.oid, 'usage')
                and has_column_privilege(o.oid, 'payload', 'insert'), false) as may_write,
       coalesce(pg_has_role(o.relowner, 'usage'), false) as may_migrate,
       cast(current_user as text) as login
  from (values (1)) as one
  left join pg_namespace as n on n.nspname = :'schema'
  left join pg_class as o on o.relnamespace = n.oid and o.relname = 'outbox'
 cross join lateral (
   select bool_and(has_function_privilege(p.oid, 'execute'))
     from pg_proc as p
    where p.pronamespace = n.oid and p.proname in ('emit', 'emit_bytes')
 ) as f (written_by)
