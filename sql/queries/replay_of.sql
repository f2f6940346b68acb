-- replay_of: a replay that was begun, to go on with.
--
-- takes    replay (bigint)
-- returns  wanted (text of a JSON object), same_id, base (text of a pg_snapshot), events, marked,
--          place_first, place, first_id, ended_at; is_whole: none of its rows was pruned since
-- reads    its row, and one of the outbox
-- locks    nothing
--
-- Prune goes from the lowest id up, so what began the range is the first to be gone.
select r.wanted::text, r.same_id, r.base::text, r.events, r.marked, r.place_first, r.place,
       r.first_id, r.ended_at,
       r.kept_until > clock_timestamp()
       or exists (select from :"schema".outbox as o where o.id = r.first_id) as is_whole
  from :"schema".replay as r
 where r.id = %(replay)s::bigint
