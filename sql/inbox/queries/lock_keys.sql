-- lock_keys: wait for every other open change of these keys (see the function inbox_lock_keys).
--
-- takes    consumer (text), keys (text[])
-- locks    the keys, until the transaction ends
select :"schema".inbox_lock_keys(%(consumer)s::text, %(keys)s::text[])
