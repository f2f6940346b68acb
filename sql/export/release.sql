-- release: a release's functions, views, triggers and roles for another tool's files. Can be run
-- again; it does nothing where a later release was.
--
-- takes    schema; lock; version, the last migration's; checksum, of functions and views; quoted
--          texts: functions with their record, views (a list), names (theirs), triggers and roles; body
-- locks    what they lock
do :body
declare
  path  constant text := pg_catalog.current_setting('search_path');
  texts constant text[] := array[:views];
  names constant text[] := array[:names];
begin
  perform pg_catalog.pg_advisory_xact_lock(:lock, pg_catalog.hashtext(:'schema'));
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
  if exists (select from :"schema".migration as m where m.version > :version) then
    raise notice 'schema "%" is of a later release', :'schema';
  else
    if not exists (select from :"schema".migration as m where m.version = 0 and m.checksum = :checksum)
    then
      execute :functions;
    end if;
    for n in 1 .. cardinality(texts) loop
      begin
        execute texts[n];
      exception when invalid_table_definition then  -- its columns have changed
        execute format('drop view %I.%I', :'schema', names[n]);
        execute texts[n];
      end;
    end loop;
    execute :triggers;
    execute :roles;
  end if;
  perform set_config('search_path', path, false);
end
:body;
