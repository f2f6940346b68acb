-- promote_all: promote for a chunk of all keys. Runs again and again, for what promote can't know
-- of: a row was deleted by hand, or dead events have ceased to block their keys.
--
-- takes    after (text): the chunk begins behind this key; limit_keys (bigint); dead_blocks
--          (boolean): a dead event blocks its key
-- returns  the chunk's last key, null at the end
-- reads    the index (key, id) of the live, two entries a key; the view fence (R-ORDER)
-- locks    the rows that become due
with recursive live (key, place) as (
  (select p.key, 1
     from :"schema".parked as p
    where p.dead_at is null and p.key > %(after)s::text
    order by p.key
    limit 1)
  union all
  select (select p.key
            from :"schema".parked as p
           where p.dead_at is null and p.key > l.key
           order by p.key
           limit 1),
         l.place + 1
    from live as l
   where l.key is not null
     and l.place < %(limit_keys)s::bigint
),
promoted as (
  update :"schema".parked as p
     set next_attempt_at = clock_timestamp()
    from live as l
   cross join lateral (
     select f.event_id, f.id, f.next_attempt_at
       from :"schema".parked as f
      where f.key between l.key and l.key
        and f.dead_at is null
      order by f.key, f.id
      limit 1
   ) as first
   where p.event_id = first.event_id
     and first.next_attempt_at is null
     and not (%(dead_blocks)s::boolean
              and (select true from :"schema".fence as e
                     where e.key between l.key and l.key and e.id < first.id and e.dead
                     order by e.key, e.id
                     limit 1) is not null)
)
select l.key from live as l order by l.place desc limit 1
