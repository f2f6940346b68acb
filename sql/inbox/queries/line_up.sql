-- line_up: let the first parked message of each key be due (see the function inbox_line_up).
--
-- takes    consumer (text), keys (text[]; null: all)
-- locks    the keys, unless all; the rows it changes
select :"schema".inbox_line_up(%(consumer)s::text, %(keys)s::text[])
