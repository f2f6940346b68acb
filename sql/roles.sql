-- roles: who may do what with an outbox. Can be run again at any time; `migrate` runs it each time.
--
-- takes    schema (psql variable): a migrated schema
-- returns  nothing; a notice of what was made or changed, or, with a hint, why the roles were left
--          out
-- locks    pg_authid rows of new roles; a table briefly, when its owner changes
--
-- All five are groups without a login. Let logins in by: grant relay_producer to my_service;
--
--   <schema>_owner     owns everything here; whoever migrates is a member, or a superuser
--   <schema>_producer  inserts events, by column or by emit; sees no more than id and event_id
--   <schema>_relay     reads and prunes the outbox, moves the cursor, keeps the parked
--   <schema>_operator  looks at everything; decides on dead events and replays by functions that
--                      keep who decided; emits
--   <schema>_monitor   the two views, which show no payload
--
-- Roles belong to the cluster: outboxes of the same schema name in two databases share them.
-- Without the right to make roles (superuser or CREATEROLE) everything works for the objects'
-- owner alone; a person who has the right can run this file later.
set search_path = pg_catalog, pg_temp;
set relay.schema = :'schema';

do $roles$
declare
  s        constant text := current_setting('relay.schema');
  owner    constant text := s || '_owner';
  producer constant text := s || '_producer';
  relay    constant text := s || '_relay';
  operator constant text := s || '_operator';
  monitor  constant text := s || '_monitor';
  columns  constant text := 'idempotency_key, subject, key, payload, payload_bytes, headers, ttl';
  tables   constant text[] := array['outbox', 'cursor', 'settled', 'report', 'stream', 'parked',
                                    'checkpoint', 'repair', 'unparked', 'decision', 'migration',
                                    'replay', 'fence', 'pending', 'status'];
  routines constant text[] := array['publishable', 'message_id', 'message_headers', 'notify',
                                    'refuse_truncate', 'emit', 'emit_bytes', 'retry_dead',
                                    'drop_dead', 'begin_replay', 'mark_replay'];
  home     constant oid := (select n.oid from pg_namespace as n where n.nspname = s);
  name     text;
  thing    record;
  made     text[] := '{}';
  moved    int    := 0;
begin
  for thing in
    select r.rolname
      from pg_roles as r
     where r.rolname in (owner, producer, relay, operator, monitor)
       and (r.rolcanlogin or r.rolsuper or r.rolcreaterole or r.rolcreatedb or r.rolreplication
            or r.rolbypassrls)
  loop
    raise exception 'the role % exists and can log in, or has a power of its own', thing.rolname
      using hint = format('make it a plain group, "alter role %I nologin nosuperuser nocreaterole '
                          'nocreatedb noreplication nobypassrls", or take another schema name',
                          thing.rolname);
  end loop;

  foreach name in array array[owner, producer, relay, operator, monitor] loop
    if not exists (select from pg_roles as r where r.rolname = name) then
      begin
        execute format('create role %I nologin', name);
        made := made || name;
      exception when duplicate_object or unique_violation then
        null;  -- another database of this cluster made it at the same moment
      end;
    end if;
  end loop;

  -- Whoever migrates now, and whoever owned the schema before, stays able to.
  for thing in
    select r.rolname
      from pg_roles as r
     where (r.rolname = current_user
            or r.oid = (select n.nspowner from pg_namespace as n where n.oid = home))
       and r.rolname not in (owner, 'pg_database_owner')
       and not pg_has_role(r.rolname, owner, 'usage')
       and not pg_has_role(owner, r.rolname, 'member')  -- a rename that is taken back: no circle
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
      from pg_class as c
     where c.relnamespace = home
       and c.relname = any (tables)
       and c.relkind in ('r', 'v')
       and pg_get_userbyid(c.relowner) <> owner
  loop
    execute format('alter %s %I.%I owner to %I', thing.kind, s, thing.relname, owner);
    moved := moved + 1;
  end loop;
  for thing in
    select p.oid::regprocedure as signature
      from pg_proc as p
     where p.pronamespace = home
       and p.proname = any (routines)
       and pg_get_userbyid(p.proowner) <> owner
  loop
    execute format('alter function %s owner to %I', thing.signature, owner);
    moved := moved + 1;
  end loop;
  if s <> 'public'  -- which is not ours alone
     and exists (
       select from pg_namespace as n
        where n.oid = home and pg_get_userbyid(n.nspowner) <> owner
     )
  then
    execute format('alter schema %I owner to %I', s, owner);
    moved := moved + 1;
  end if;

  execute format('grant usage on schema %I to %I, %I, %I, %I',
                 s, producer, relay, operator, monitor);

  execute format('grant insert (%s) on %I.outbox to %I, %I', columns, s, producer, operator);
  -- for INSERT … RETURNING, by which object mappers learn what they have written
  execute format('grant select (id, event_id) on %I.outbox to %I', s, producer);
  for thing in
    select p.oid::regprocedure as signature,
           case when p.proname like 'emit%' then format('%I, %I', producer, operator)
                else quote_ident(operator) end as who
      from pg_proc as p
     where p.pronamespace = home
       and p.proname in ('emit', 'emit_bytes', 'retry_dead', 'drop_dead', 'begin_replay',
                         'mark_replay')
  loop
    execute format('grant execute on function %s to %s', thing.signature, thing.who);
  end loop;

  execute format('grant select, delete, update (xid, event_id) on %I.outbox to %I', s, relay);
  execute format('grant select on sequence %s to %I',
                 pg_get_serial_sequence(format('%I.outbox', s), 'id'), relay);
  execute format('grant select, update on %I.cursor, %I.report to %I', s, s, relay);
  execute format('grant select, insert, update, delete on %I.parked, %I.settled, %I.stream, '
                 '%I.checkpoint, %I.repair, %I.unparked to %I', s, s, s, s, s, s, relay);

  execute format('grant select on %I.outbox, %I.cursor, %I.report, %I.parked, %I.settled, %I.stream, '
                 '%I.decision, %I.checkpoint, %I.repair, %I.unparked to %I',
                 s, s, s, s, s, s, s, s, s, s, operator);

  execute format('grant select on %I.migration, %I.replay, %I.fence to %I, %I',
                 s, s, s, relay, operator);
  execute format('grant select on %I.pending, %I.status to %I, %I, %I',
                 s, s, relay, operator, monitor);

  if made <> '{}' then
    raise notice 'made the roles %', array_to_string(made, ', ');
  end if;
  if moved > 0 then
    raise notice 'gave % of the schema''s objects to %', moved, owner;
  end if;
exception when insufficient_privilege then
  raise notice 'the roles of schema "%" were left out: % may not set them up (%)',
               s, current_user, sqlerrm
    using hint = format('have a login that may run it: psql -v schema=%s -f roles.sql; '
                        '`python -m relay migrate --print` ends with that file', s);
end
$roles$;

reset relay.schema;
