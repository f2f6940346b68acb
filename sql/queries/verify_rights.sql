-- verify_rights: what this login lacks for a term of the relay, and what would hide rows from it.
--
-- takes    nothing
-- returns  a row for each fault: fatal (boolean, true), message (text, with the remedy)
-- reads    the catalogs
-- locks    nothing
with home as (
  select n.oid, n.nspname as name from pg_namespace as n where n.nspname = :'schema'
),
needed (relation, privilege) as (
  values ('outbox', 'select'), ('outbox', 'delete'),
         ('cursor', 'select'), ('cursor', 'update'),
         ('settled', 'select'), ('settled', 'insert'), ('settled', 'update'), ('settled', 'delete'),
         ('report', 'select'), ('report', 'update'),
         ('stream', 'select'), ('stream', 'insert'), ('stream', 'update'), ('stream', 'delete'),
         ('parked', 'select'), ('parked', 'insert'), ('parked', 'update'), ('parked', 'delete'),
         ('replay', 'select'), ('fence', 'select'), ('status', 'select')
),
found as (
  select n.relation, n.privilege, c.oid
    from needed as n
    left join pg_class as c
           on c.relname = n.relation
          and c.relnamespace = (select h.oid from home as h)
          and c.relkind in ('r', 'v')
),
lacking (what) as (
  select format('%s on %s', upper(f.privilege), f.relation)
    from found as f
   where not has_table_privilege(f.oid, f.privilege)
  union all
  select format('UPDATE (%s) on outbox', a.attname)
    from pg_attribute as a
   where a.attrelid = (select f.oid from found as f where f.relation = 'outbox' limit 1)
     and a.attname in ('xid', 'event_id')
     and not has_column_privilege(a.attrelid, a.attnum, 'update')
  union all
  select format('EXECUTE on %s', p.oid::regprocedure)
    from pg_proc as p
   where (p.pronamespace = (select h.oid from home as h) and p.proname in ('publishable', 'message_id')
          or p.oid in ('pg_control_system()'::regprocedure,
                       'pg_try_advisory_lock(int, int)'::regprocedure))
     and not has_function_privilege(p.oid, 'execute')
  union all
  select format('SELECT on the sequence %s', c.oid::regclass)
    from pg_class as c
   where c.oid = pg_get_serial_sequence(
           (select quote_ident(h.name) || '.outbox' from home as h), 'id')::regclass
     and not has_sequence_privilege(c.oid, 'select')
)
select true as fatal,
       format('%s lacks %s: grant %I to it', current_user, string_agg(l.what, ', '),
              :'schema' || '_relay') as message
  from lacking as l
having count(*) > 0
union all
select true, format('%s of schema "%s" is gone: restore it from a backup',
                    string_agg(distinct f.relation, ', '), :'schema')
  from found as f
 where f.oid is null
having count(*) > 0
union all
select true, format('row-level security hides rows of %s from %s: have it disabled there, or give '
                    'this login BYPASSRLS', string_agg(distinct f.relation, ', '), current_user)
  from found as f
  join pg_class as c on c.oid = f.oid and c.relkind = 'r'
 where row_security_active(f.oid)
having count(*) > 0
