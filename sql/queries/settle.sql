-- settle: move the cursor, if this term still lasts, and keep a checkpoint with it (R-LOSS, R-TERM).
--
-- takes    epoch, holder: the term; at (tid, or null): where the cursor row was last;
--          base, target, last_id: where to read on; base null leaves the cursor where it is, and
--          only keeps others from beginning a term while the parked change; tips (json, an array of
--          objects): how far each stream is that has moved, the number of the checkpoint made of that,
--          and the numbers of those that it replaces; top_id: of the checkpoints
-- returns  one row with the epoch, and where the cursor row is now; none if another term has begun
-- locks    the cursor row, the checkpoints' rows
--
-- While another session holds a snapshot, each settlement leaves a version of the cursor row that
-- nobody can remove. So the row is read where it was last; from the table's beginning only if it is
-- not there any more. And each checkpoint has a key of its own, its number: one key for all that
-- stood in its place before would have as many versions to pass.
with moved as (
  update :"schema".cursor as c
     set base = coalesce(%(base)s::pg_snapshot, base),
         target = case when %(base)s::pg_snapshot is null then target
                       else %(target)s::pg_snapshot end,
         last_id = coalesce(%(last_id)s::bigint, last_id),
         settled_at = clock_timestamp()
   where c.ctid = coalesce((select k.ctid from :"schema".cursor as k where k.ctid = %(at)s::tid),
                           (select k.ctid from :"schema".cursor as k))
     and c.epoch = %(epoch)s::bigint
     and c.holder = %(holder)s::text
  returning c.epoch, c.ctid as place, c.base, c.target, c.last_id
),
tip as (
  select m.base, m.target, m.last_id, t.*
    from moved as m,
         json_to_recordset(%(tips)s::json) as t (
           stream text, number bigint, replaces bigint[], created text, seq bigint,
           message_id text, sure boolean, after_seq bigint
         )
),
replaced as (
  delete from :"schema".checkpoint as c
   using tip as t
   where c.stream = t.stream
     and c.ring = any (t.replaces)
),
kept as (
  insert into :"schema".checkpoint as c (
    stream, ring, number, created, seq, message_id, sure, after_seq, base, target, last_id, top_id,
    settled_at
  )
  select t.stream, (t.number & 2147483647)::int, t.number, t.created, t.seq, t.message_id, t.sure,
         t.after_seq, t.base, t.target, t.last_id, %(top_id)s::bigint, now()
    from tip as t
      on conflict (stream, ring) do update
     set number = excluded.number, created = excluded.created, seq = excluded.seq,
         message_id = excluded.message_id, sure = excluded.sure, after_seq = excluded.after_seq,
         base = excluded.base, target = excluded.target, last_id = excluded.last_id,
         top_id = excluded.top_id, settled_at = excluded.settled_at
)
select m.epoch, m.place::text from moved as m
