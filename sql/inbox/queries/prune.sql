-- prune: forget messages that were taken long ago; one bounded chunk (see the function inbox_prune).
--
-- takes    consumer (text), seconds (float8), chunk_rows (int)
-- returns  how many rows went
-- locks    the deleted rows
select :"schema".inbox_prune(
  %(consumer)s::text, make_interval(secs => %(seconds)s::float8), %(chunk_rows)s::int
)
