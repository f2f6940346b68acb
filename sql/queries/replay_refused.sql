-- replay_refused: the events of one replay that could not be stored: dead, until a person decides.
--
-- takes    replay (bigint); limit_rows (bigint)
-- returns  id; last_error; total: how many there are, in the order of id
-- reads    the index of the replayed
-- locks    nothing
select p.id, p.last_error, count(*) over () as total
  from :"schema".parked as p
 where p.replay = %(replay)s::bigint
   and p.dead_at is not null
 order by p.id
 limit %(limit_rows)s::bigint
