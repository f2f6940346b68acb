-- replica_identity: every table can be deleted from while a publication has all tables.
--
-- takes    schema (psql variable): a schema with the migrations before this one
-- locks    unparked against everything, for a moment; producers do not touch it
--
-- Without a key or this, Postgres refuses to delete from a table that is published, and so did prune
-- as long as a `for all tables` publication was there, such as that of a blue/green switchover.
set search_path = pg_catalog, pg_temp;

alter table :"schema".unparked replica identity full;
