-- wait: where rows of an adopted table wait while what was there before goes first (R-ORDER).
--
-- takes    schema; rows; owner
-- locks    nothing that is in use
--
-- The outbox's own rules hold for it, so that the application's statement is refused, and not the
-- backfill later.
create table if not exists :"schema".:"rows" (
  like :"schema".outbox including defaults including identity including constraints including storage,
  primary key (id)
);
alter table :"schema".:"rows" owner to :"owner";
