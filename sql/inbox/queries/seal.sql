-- seal: say which transaction this is, before it commits; one that has failed raises.
--
-- takes    nothing
-- returns  xid (text), null where the transaction has not written
-- locks    nothing
select pg_current_xact_id_if_assigned()::text
