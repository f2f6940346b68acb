-- commit: a commit that flushes, and how long the server took for it. Five statements at once.
--
-- takes    nothing
-- returns  of the third and the fifth statement: epoch s before and after the commit
-- writes   one logical message, which replication slots ignore
-- locks    nothing
begin;
select pg_logical_emit_message(true, 'relay', 'measure');
select extract(epoch from clock_timestamp())::float8;
commit;
select extract(epoch from clock_timestamp())::float8
