-- verify_rights: what this login lacks for a term of the relay, and what would hide rows from it.
--
-- takes    nothing
-- returns  a row for each fault: fatal (boolean, true), topic (text: grants, rls or tables), seen
--          (text) and remedy (text)
-- reads    the catalogs; needs no right on the schema
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
         ('checkpoint', 'select'), ('checkpoint', 'insert'), ('checkpoint', 'update'),
         ('checkpoint', 'delete'), ('repair', 'select'), ('repair', 'insert'),
         ('repair', 'update'), ('repair', 'delete'),
         ('unparked', 'select'), ('unparked', 'insert'), ('unparked', 'delete'),
         ('replay', 'select'), ('migration', 'select'), ('fence', 'select'), ('status', 'select')
),
found as (
  select n.relation, n.privilege, c.oid
    from needed as n
    left join pg_class as c
           on c.relname = n.relation
          and c.relnamespace = (select h.oid from home as h)
          and c.relkind in ('r', 'v')
),
lacking (what, on_what) as (  -- as people read it; as GRANT wants it
  select 'USAGE on schema ' || quote_ident(h.name), 'USAGE on schema ' || quote_ident(h.name)
    from home as h
   where not has_schema_privilege(h.oid, 'usage')
  union all
  select format('%s on %s', upper(f.privilege), f.relation),
         format('%s on %s', upper(f.privilege), f.oid::regclass)
    from found as f
   where not has_table_privilege(f.oid, f.privilege)
  union all
  select format('UPDATE (%s) on outbox', a.attname),
         format('UPDATE (%s) on %s', a.attname, a.attrelid::regclass)
    from pg_attribute as a
   where a.attrelid = (select f.oid from found as f where f.relation = 'outbox' limit 1)
     and a.attname in ('xid', 'event_id')
     and not has_column_privilege(a.attrelid, a.attnum, 'update')
  union all
  select format('EXECUTE on %s', p.oid::regprocedure),
         format('EXECUTE on function %s', p.oid::regprocedure)
    from pg_proc as p
   where (p.pronamespace = (select h.oid from home as h) and p.proname in ('publishable', 'message_id', 'message_headers')
          or p.oid in ('pg_control_system()'::regprocedure,
                       'pg_try_advisory_lock(int, int)'::regprocedure))
     and not has_function_privilege(p.oid, 'execute')
  union all
  select format('SELECT on the sequence %s', c.oid::regclass),
         format('SELECT on sequence %s', c.oid::regclass)
    from pg_class as c
   where c.relnamespace = (select h.oid from home as h)
     and c.relname = 'outbox_id_seq'
     and c.relkind = 'S'
     and not has_sequence_privilege(c.oid, 'select')
),
team as (
  select r.oid, r.rolname from pg_roles as r where r.rolname = :'schema' || '_relay'
)
select true as fatal,
       'grants' as topic,
       format('%s lacks %s', current_user, string_agg(l.what, ', ')) as seen,
       case when not exists (select from team)
            then format('run `python -m relay migrate` as a login that may create roles, then: '
                        'grant %I to %I', :'schema' || '_relay', current_user)
            when pg_has_role((select t.oid from team as t), 'usage')
            then string_agg(format('grant %s to %I', l.on_what, :'schema' || '_relay'), '; ')
            else format('grant %I to %I', :'schema' || '_relay', current_user)
       end as remedy
  from lacking as l
having count(*) > 0
union all
select true, 'tables', format('%s of schema "%s" is gone', string_agg(distinct f.relation, ', '),
                              :'schema'),
       'restore it from a backup'
  from found as f
 where f.oid is null
having count(*) > 0
union all
select true, 'rls',
       format('row-level security hides rows of %s from %s',
              string_agg(distinct f.relation, ', '), current_user),
       format('%s, or give this login BYPASSRLS',
              string_agg(distinct format('alter table %I.%I disable row level security',
                                         :'schema', f.relation), '; '))
  from found as f
  join pg_class as c on c.oid = f.oid and c.relkind = 'r'
 where row_security_active(f.oid)
having count(*) > 0
