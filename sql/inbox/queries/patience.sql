-- patience: bound the waits of the transaction that has just begun.
--
-- takes    lock_timeout (text, such as 1000ms)
-- locks    nothing
select set_config('lock_timeout', %(lock_timeout)s::text, true)
