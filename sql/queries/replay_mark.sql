-- replay_mark: hand the next events of a replay to the relay that leads; see
-- sql/functions/mark_replay.sql.
--
-- takes    replay (bigint); ids (bigint[]); first_id (bigint): of the last one's key; goes_on, ended
--          (boolean)
-- returns  marked (bigint)
-- locks    the replay's row, and the last event marked before
select :"schema".mark_replay(
         %(replay)s::bigint, %(ids)s::bigint[], %(first_id)s::bigint, %(goes_on)s::boolean,
         %(ended)s::boolean
       ) as marked
