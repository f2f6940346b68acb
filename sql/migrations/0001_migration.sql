-- migration: which migrations this schema has, and of which text.
--
-- takes    schema (psql variable): an existing schema
-- locks    nothing that is in use
--
-- Versions from 1 up are files of sql/migrations, in their order; they only ever grow. Version 0
-- stands for all of sql/functions together, which are replaced whenever their text differs.
create table :"schema".migration (
  version    int         primary key,
  name       text        not null,
  checksum   text        not null,
  applied_at timestamptz not null default clock_timestamp()
);
