-- enter: make a consumer's row, if it has none.
--
-- takes    consumer (text)
-- locks    nothing beyond a new row
insert into :"schema".inbox_consumer (name) values (%(consumer)s) on conflict do nothing
