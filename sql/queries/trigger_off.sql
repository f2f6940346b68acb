-- trigger_off: have writers keep silent; the relay polls. Two-phase commit needs it, for no prepared
-- transaction may have notified.
--
-- takes    nothing
-- returns  nothing
-- locks    outbox against writers, for a moment
alter table :"schema".outbox disable trigger relay_notify
