-- promote: let the first parked event of each key be due, if it only waited for another to go.
--
-- takes    keys (text[]); dead_blocks (boolean): a dead event blocks its key
-- returns  nothing
-- reads    the index (key, id) of the live, one entry a key; the view fence (R-ORDER)
-- locks    the rows that become due
update :"schema".parked as p
   set next_attempt_at = clock_timestamp()
  from (select distinct k.key from unnest(%(keys)s::text[]) as k (key)) as k
 cross join lateral (
   select f.event_id, f.id, f.next_attempt_at
     from :"schema".parked as f
    where f.key between k.key and k.key
      and f.dead_at is null
    order by f.key, f.id
    limit 1
 ) as first
 where p.event_id = first.event_id
   and first.next_attempt_at is null
   and not (%(dead_blocks)s::boolean
            and (select true from :"schema".fence as e
                     where e.key between k.key and k.key and e.id < first.id and e.dead
                     order by e.key, e.id
                     limit 1) is not null)
