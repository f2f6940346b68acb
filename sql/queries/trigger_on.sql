-- trigger_on: have writers ring the bell; see sql/triggers/relay_notify.sql.
--
-- takes    nothing
-- returns  nothing
-- locks    outbox against writers, for a moment
alter table :"schema".outbox enable trigger relay_notify
