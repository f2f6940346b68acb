-- blocked: which keys have a parked event that their later ones must queue behind (R-ORDER).
--
-- takes    keys (json: an array); dead_blocks (boolean): a dead event blocks its key
-- returns  those keys
-- reads    one entry of the index (key, id) of the live a key, and one of that of the dead; through
--          the view fence
-- locks    nothing
--
-- "between" and "order by key, id limit 1", for "=" and "exists" would let the planner walk any
-- other index until it meets one: of a table of a single key's events it expects that soon. Keys are
-- cut as in park.
select k.key
  from json_array_elements_text(%(keys)s::json) as k (key)
 where (select true from :"schema".fence as f
         where f.key between left(k.key, 500) and left(k.key, 500) and not f.dead
         order by f.key, f.id
         limit 1) is not null
    or %(dead_blocks)s::boolean
       and (select true from :"schema".fence as f
             where f.key between left(k.key, 500) and left(k.key, 500) and f.dead
             order by f.key, f.id
             limit 1) is not null
