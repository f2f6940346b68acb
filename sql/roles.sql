-- roles: who may do what with an outbox. Can be run again at any time; `migrate` runs it each time.
--
-- takes    schema (psql variable): a migrated schema
-- returns  nothing; one notice if it had to leave the roles out, and why
-- locks    pg_authid rows of new roles; a table briefly, when its owner changes
--
-- All five are groups without a login. Let logins in by: grant relay_producer to my_service;
--
--   <schema>_owner     owns everything here; whoever migrates is a member, or a superuser
--   <schema>_producer  inserts events, by column or by emit; sees nothing
--   <schema>_relay     reads and prunes the outbox, moves the cursor, keeps the parked
--   <schema>_operator  looks at everything, decides on the parked, emits
--   <schema>_monitor   the two views, which show no payload
--
-- Roles belong to the cluster: outboxes of the same schema name in two databases share them.
-- Without the right to make roles (superuser or CREATEROLE) everything works for the objects'
-- owner alone; a person who has the right can run this file later.
set relay.schema = :'schema';

do $roles$
declare
  s        constant text := pg_catalog.current_setting('relay.schema');
  owner    constant text := s || '_owner';
  producer constant text := s || '_producer';
  relay    constant text := s || '_relay';
  operator constant text := s || '_operator';
  monitor  constant text := s || '_monitor';
  columns  constant text :=
    'event_id, idempotency_key, subject, key, payload, payload_bytes, headers';
  home     constant oid := (select n.oid from pg_catalog.pg_namespace as n where n.nspname = s);
  name     text;
  thing    record;
begin
  foreach name in array array[owner, producer, relay, operator, monitor] loop
    if not exists (select from pg_catalog.pg_roles as r where r.rolname = name) then
      begin
        execute format('create role %I nologin', name);
      exception when duplicate_object or unique_violation then
        null;  -- another database of this cluster made it at the same moment
      end;
    end if;
  end loop;

  -- Whoever migrates now, and whoever owned the schema before, stays able to.
  for thing in
    select r.rolname
      from pg_catalog.pg_roles as r
     where (r.rolname = current_user
            or r.oid = (select n.nspowner from pg_catalog.pg_namespace as n where n.oid = home))
       and r.rolname not in (owner, 'pg_database_owner')
       and not pg_catalog.pg_has_role(r.rolname, owner, 'usage')
  loop
    begin
      execute format('grant %I to %I', owner, thing.rolname);
    exception when unique_violation then
      null;  -- the same
    end;
  end loop;

  -- Only what is ours by name, and only what changes: a new owner locks the table.
  execute format('grant usage, create on schema %I to %I', s, owner);
  for thing in
    select c.relname, case c.relkind when 'v' then 'view' else 'table' end as kind
      from pg_catalog.pg_class as c
     where c.relnamespace = home
       and c.relname in ('outbox', 'cursor', 'parked', 'decision', 'migration', 'pending',
                         'status')
       and c.relkind in ('r', 'v')
       and pg_catalog.pg_get_userbyid(c.relowner) <> owner
  loop
    execute format('alter %s %I.%I owner to %I', thing.kind, s, thing.relname, owner);
  end loop;
  for thing in
    select p.oid::regprocedure as signature
      from pg_catalog.pg_proc as p
     where p.pronamespace = home
       and p.proname in ('emit', 'ring_asleep', 'check_subject', 'check_key', 'check_headers',
                         'check_payload_size', 'check_one_payload', 'refuse_poison', 'ring')
       and pg_catalog.pg_get_userbyid(p.proowner) <> owner
  loop
    execute format('alter function %s owner to %I', thing.signature, owner);
  end loop;
  for thing in
    select t.typname
      from pg_catalog.pg_type as t
     where t.typnamespace = home
       and t.typtype = 'd'
       and t.typname in ('event_subject', 'event_key', 'event_idempotency_key', 'event_payload',
                         'event_payload_bytes', 'event_headers')
       and pg_catalog.pg_get_userbyid(t.typowner) <> owner
  loop
    execute format('alter domain %I.%I owner to %I', s, thing.typname, owner);
  end loop;
  if s <> 'public'  -- which is not ours alone
     and exists (
       select from pg_catalog.pg_namespace as n
        where n.oid = home and pg_catalog.pg_get_userbyid(n.nspowner) <> owner
     )
  then
    execute format('alter schema %I owner to %I', s, owner);
  end if;

  execute format('grant usage on schema %I to %I, %I, %I, %I',
                 s, producer, relay, operator, monitor);

  execute format('grant insert (%s) on %I.outbox to %I, %I', columns, s, producer, operator);
  for thing in
    select p.oid::regprocedure as signature
      from pg_catalog.pg_proc as p
     where p.pronamespace = home and p.proname = 'emit'
  loop
    execute format('grant execute on function %s to %I, %I', thing.signature, producer, operator);
  end loop;

  execute format('grant select, delete, update (xid) on %I.outbox to %I', s, relay);
  execute format('grant select, update on %I.cursor to %I', s, relay);
  execute format('grant select, insert, update, delete on %I.parked to %I', s, relay);

  execute format('grant select on %I.outbox, %I.cursor to %I', s, s, operator);
  execute format('grant select, update, delete on %I.parked to %I', s, operator);
  execute format('grant select, insert on %I.decision to %I', s, operator);

  execute format('grant select on %I.migration to %I, %I', s, relay, operator);
  execute format('grant select on %I.pending, %I.status to %I, %I, %I',
                 s, s, relay, operator, monitor);
exception when insufficient_privilege then
  raise notice 'the roles of schema "%" were left out: % may not set them up (%)',
               s, current_user, sqlerrm
    using hint = format('run as a superuser: psql -v schema=%s -f sql/roles.sql', s);
end
$roles$;

reset relay.schema;
