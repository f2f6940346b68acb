-- parked_indexes: an event that waits behind another one has four entries in indexes, not six.
--
-- takes    schema (psql variable): a schema with the migrations before this one
-- locks    parked against everything, for as long as an index over its dead takes; producers do not
--          touch it
--
-- A leader of the release before leads on. With RELAY_ON_DEAD=block it walks more of the parked than
-- it did, until it is replaced.
--
-- Those that wait for an earlier one stand among the live of their key. What blocks a key beside its
-- live is dead, and so the index that had both needs the dead alone.
set search_path = pg_catalog, pg_temp;

drop index :"schema".parked_waiting;
drop index :"schema".parked_key_id;
create index parked_dead_key on :"schema".parked (key, id) where dead_at is not null;
