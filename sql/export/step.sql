-- step: a numbered migration for another tool's files. It does nothing where it is applied already.
--
-- takes    schema; lock; version; text, the whole migration, quoted; body, a dollar-quote
-- locks    what the migration locks
--
-- One statement, so that any driver takes it, and all of it happens or nothing. The tool's own
-- search_path is as before at its end.
do :body
declare
  path    constant text := pg_catalog.current_setting('search_path');
  applied boolean := false;
begin
  perform pg_catalog.pg_advisory_xact_lock(:lock, pg_catalog.hashtext(:'schema'));
  perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
  if to_regclass(format('%I.migration', :'schema')) is not null then
    select exists (select from :"schema".migration as m where m.version = :version) into applied;
  end if;
  if not applied then
    if to_regnamespace(quote_ident(:'schema')) is null then
      create schema :"schema";
    end if;
    execute :text;
  end if;
  perform set_config('search_path', path, false);
end
:body;
