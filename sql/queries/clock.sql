-- clock: the server's wall clock.
--
-- takes    nothing
-- returns  now (timestamptz)
-- locks    nothing
select clock_timestamp() as now
