-- replay_begin: note a replay, or that one goes on; see sql/functions/begin_replay.sql.
--
-- takes    replay (bigint): one to go on with, or null; wanted (text of a JSON object), same_id
--          (boolean), first_id, last_id, events (bigint): of a new one; by (text): the name a person
--          gives, put behind the login's
-- returns  id
-- locks    the replay's row
select :"schema".begin_replay(
         %(replay)s::bigint, %(wanted)s::text::jsonb, %(same_id)s::boolean, %(first_id)s::bigint,
         %(last_id)s::bigint, %(events)s::bigint, %(by)s::text
       ) as id
