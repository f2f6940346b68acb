-- promote_all: promote for a chunk of all keys. Runs again and again, for what promote can't know
-- of: a row was deleted by hand, or dead events have ceased to block their keys.
--
-- takes    after (text): the chunk begins behind this key; limit_keys (bigint); dead_blocks
--          (boolean): a dead event blocks its key
-- returns  the chunk's last key, null at the end
-- reads    the index (key, id) of those that wait, one entry a key; the like of the live; the view fence (R-ORDER)
-- locks    the rows that become due
with recursive waiting (key, place) as (
  (select p.key, 1
     from :"schema".parked as p
    where p.dead_at is null and p.next_attempt_at is null and p.key > %(after)s::text
    order by p.key
    limit 1)
  union all
  select (select p.key
            from :"schema".parked as p
           where p.dead_at is null and p.next_attempt_at is null and p.key > w.key
           order by p.key
           limit 1),
         w.place + 1
    from waiting as w
   where w.key is not null
     and w.place < %(limit_keys)s::bigint
),
promoted as (
  update :"schema".parked as p
     set next_attempt_at = clock_timestamp()
    from waiting as w
   cross join lateral (
     select f.event_id, f.id, f.next_attempt_at
       from :"schema".parked as f
      where f.key between w.key and w.key
        and f.dead_at is null
      order by f.key, f.id
      limit 1
   ) as first
   where p.event_id = first.event_id
     and first.next_attempt_at is null
     and not (%(dead_blocks)s::boolean
              and (select true from :"schema".fence as e
                     where e.key between w.key and w.key and e.id < first.id
                     order by e.key, e.id
                     limit 1) is not null)
)
select w.key from waiting as w order by w.place desc limit 1
