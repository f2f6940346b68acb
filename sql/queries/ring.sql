-- ring: every checkpoint of some streams, and the cursor.
--
-- takes    streams (text[]); null: of all
-- returns  stream (null in the cursor's row, which comes always), number, created, seq, message_id,
--          sure, after_seq, base, target (text), last_id, top_id, age (s since it was written), settled_at
-- reads    about 96 rows a stream
-- locks    nothing
select null as stream, 0 as number, '' as created, 0 as seq, '' as message_id, false as sure,
       0 as after_seq, c.base::text, c.target::text, c.last_id, 0 as top_id, 0.0::float8 as age,
       null::timestamptz as settled_at
  from :"schema".cursor as c
union all
(
  select k.stream, k.number, k.created, k.seq, k.message_id, k.sure, k.after_seq, k.base::text,
         k.target::text, k.last_id, k.top_id,
         greatest(extract(epoch from clock_timestamp() - k.settled_at), 0)::float8, k.settled_at
    from :"schema".checkpoint as k
   where %(streams)s::text[] is null
      or k.stream = any (%(streams)s::text[])
   order by k.number desc
)
