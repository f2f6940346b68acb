-- bare: the outbox's table and indexes once more, without its trigger and its check.
--
-- takes    schema (psql variable): a migrated schema that nobody uses
-- returns  nothing
-- locks    nothing that is in use
create table :"schema".bare (
  like :"schema".outbox including defaults including identity including indexes including storage
)
