-- doorbell_off: have writers keep silent; the relay polls. Needed for two-phase commit, where NOTIFY
-- is forbidden.
--
-- takes    schema (psql variable)
-- locks    outbox, exclusively, for a moment
alter table :"schema".outbox alter column xid set default pg_current_xact_id();
