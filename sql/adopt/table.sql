-- table: what an existing table is, and whether it is adopted.
--
-- takes    table: its name as SQL writes it, with its schema
-- returns  one row; none if there is no such table
-- reads    the catalogs
-- locks    nothing
--
-- Of types with few differences one name is returned: text, number.
with found as (
  select c.*, n.nspname, t.oid as trigger,
         (select h.nspname from pg_namespace as h where h.oid = p.pronamespace) as home,
         obj_description(t.oid, 'pg_trigger') as note,
         coalesce(p.proname, 'adopt_' || left(c.relname, 10) || '_' || c.oid) as function
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    left join pg_trigger as t on t.tgrelid = c.oid and t.tgname = 'relay_adopt'
    left join pg_proc as p on p.oid = t.tgfoid
   where c.oid = to_regclass(%(table)s::text)
),
waiting as (
  select w.oid
    from found as f
    join pg_class as w on w.relname = f.function || '_rows'
   where w.relnamespace = (select n.oid from pg_namespace as n where n.nspname = :'schema')
)
select f.oid::bigint as oid,
       f.nspname::text as schema,
       f.relname::text as name,
       f.relkind = 'p' as is_partitioned,
       case when f.relkind not in ('r', 'p') or f.nspname = :'schema'
            then 'it is not a table of an application'
            when f.relispartition
                 or f.relkind = 'r'
                    and exists (select from pg_inherits as i where f.oid in (i.inhrelid, i.inhparent))
            then 'it is a partition, or inherits: what is written to its relatives would be passed '
                 'over; adopt the partitioned table, or make it one table of its own'
            when f.home <> :'schema'
            then 'it arrives in the outbox of schema "' || f.home || '": --undo it there'
       end as fault,
       f.function::text as function,
       f.trigger is not null as is_adopted,
       f.note is not null as is_backfilled,
       exists (select from waiting) as is_waiting,
       exists (select from waiting as w where obj_description(w.oid, 'pg_class') = 'copied') as is_copied,
       pg_get_userbyid((select o.relowner from pg_class as o
                         where o.oid = (quote_ident(:'schema') || '.outbox')::regclass))::text as owner,
       (select jsonb_object_agg(
                 a.attname,
                 case when a.attgenerated = 'v' then 'virtual'
                      when b.typcategory = 'S' then 'text'
                      when b.typcategory = 'N' then 'number'
                      else format_type(b.oid, null) end)
          from pg_attribute as a
          join pg_type as t on t.oid = a.atttypid
          join pg_type as b on b.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
         where a.attrelid = f.oid and a.attnum > 0 and not a.attisdropped) as columns
  from found as f
