-- verify_facts: what is not as a term of the relay requires. Asked after verify_rights.
--
-- takes    nothing
-- returns  a row for each fault: fatal (boolean; false: a warning), topic (text: sequence,
--          subscription, tables, trigger or functions), seen (text) and remedy (text)
-- reads    the catalogs, the ends of the indexes by id
-- locks    nothing
--
-- Ids of one key must ascend in the order of writing (R-ORDER), so the sequence hands them out one
-- by one, upwards, each once. Rows that a subscription brings have ids and transaction ids of
-- another cluster (R-LOSS).
with outbox as (
  select c.* from pg_class as c where c.oid = (quote_ident(:'schema') || '.outbox')::regclass
),
sequence as (
  select s.seqcache, s.seqincrement, s.seqcycle,
         case when v.is_called then v.last_value::numeric + s.seqincrement else v.last_value end as next_id,
         s.seqrelid::regclass::text as name
    from pg_sequence as s, :"schema".outbox_id_seq as v
   where s.seqrelid = (quote_ident(:'schema') || '.outbox_id_seq')::regclass
),
used as (
  select s.name, s.next_id,
         (select max(o.id) from :"schema".outbox as o) as outbox_id,
         (select max(p.id) from :"schema".parked as p) as parked_id,
         case when s.next_id <= (select max(p.id) from :"schema".parked as p)
              then (select max(p.id) from :"schema".parked as p where p.dead_at is null)
         end as live_id
    from sequence as s
)
select true as fatal,
       'sequence' as topic,
       format('the sequence %s caches %s ids a session, which breaks the order of a key',
              s.name, s.seqcache) as seen,
       format('alter sequence %s cache 1', s.name) as remedy
  from sequence as s
 where s.seqcache <> 1
union all
select true, 'sequence',
       format('the sequence %s goes by %s%s', s.name, s.seqincrement,
              case when s.seqcycle then ', and in a circle' else '' end),
       format('alter sequence %s increment 1 no cycle', s.name)
  from sequence as s
 where s.seqincrement < 1 or s.seqcycle
union all
select true, 'sequence',
       format('the sequence %s is at %s, but an event has id %s', u.name, u.next_id,
              greatest(u.outbox_id, u.live_id)),
       format('select setval(%L, %s)', u.name, greatest(u.outbox_id, u.parked_id))
  from used as u
 where u.next_id <= greatest(u.outbox_id, u.live_id)
union all
select false, 'sequence',
       format('the sequence %s is at %s, but a dead event has id %s: a new event can bear the id of '
              'a dead one', u.name, u.next_id, u.parked_id),
       format('select setval(%L, %s)', u.name, u.parked_id)
  from used as u
 where u.next_id <= u.parked_id
   and u.next_id > coalesce(greatest(u.outbox_id, u.live_id), 0)
union all
select true, 'subscription',
       format('the outbox of schema "%s" is a target of the subscription "%s": rows that it brings '
              'can''t be delivered', :'schema', s.subname),
       'run the relay where they are written, or take the outbox out of the publication'
  from pg_subscription_rel as r
  join pg_subscription as s on s.oid = r.srsubid
 where r.srrelid = (select o.oid from outbox as o)
union all
select true, 'tables',
       format('the outbox of schema "%s" is a partition, or has children', :'schema'),
       'make it one table of its own'
 where exists (select from pg_inherits as i, outbox as o where o.oid in (i.inhrelid, i.inhparent))
union all
select true, 'tables',
       format('%s of schema "%s" is unlogged and would be empty after a crash', c.relname, :'schema'),
       format('alter table %I.%I set logged', :'schema', c.relname)
  from pg_class as c
 where c.relnamespace = (select o.relnamespace from outbox as o)
   and c.relname in ('outbox', 'cursor', 'parked')
   and c.relpersistence <> 'p'
union all
select true, 'trigger', format('the trigger %s of the outbox is gone', t.name),
       'run `python -m relay migrate`'
  from (values ('relay_notify'), ('refuse_truncate')) as t (name)
 where not exists (select from pg_trigger as g, outbox as o
                    where g.tgrelid = o.oid and g.tgname = t.name)
union all
select true, 'tables', format('the %s row of schema "%s" is gone', m.name, :'schema'),
       'restore it from a backup'
  from (select 'cursor' as name where not exists (select from :"schema".cursor)
        union all
        select 'report' where not exists (select from :"schema".report)) as m
union all
select true, 'functions',
       format('schema "%s" was renamed, and %s still looks for the old name', :'schema',
              string_agg(distinct p.proname, ', ')),
       'run `python -m relay migrate`'
  from pg_proc as p
 where p.pronamespace = (select o.relnamespace from outbox as o)
   and p.proname in ('emit', 'emit_bytes', 'retry_dead', 'drop_dead', 'begin_replay', 'mark_replay')
   and p.prosecdef
   and not coalesce(format('search_path=pg_catalog, %s, pg_temp', quote_ident(:'schema'))
                    = any (p.proconfig), false)
having count(*) > 0
