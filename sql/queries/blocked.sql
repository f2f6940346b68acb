-- blocked: which keys have a parked event that their later ones must queue behind.
--
-- takes    keys (text[]); dead_blocks (boolean): a dead event blocks its key
-- returns  those keys
-- reads    one entry of the index (key, id) a key
-- locks    nothing
select k.key
  from unnest(%(keys)s::text[]) as k (key)
 where exists (
         select from :"schema".parked as p where p.key = k.key and p.dead_at is null
       )
    or (
         %(dead_blocks)s::boolean
         and exists (select from :"schema".parked as p where p.key = k.key)
       )
