-- settle: move the cursor, if this term still lasts, and keep a checkpoint with it (R-LOSS, R-TERM).
--
-- takes    epoch, holder: the term; at (tid, or null): where the cursor row was last;
--          base, target, last_id: where to read on; base null leaves the cursor where it is, and
--          only keeps others from beginning a term while the parked change; tips (json, an array of
--          objects): how far each stream is that has moved; number, ring, top_id: of the checkpoints
--          made of them
-- returns  one row with the epoch, and where the cursor row is now; none if another term has begun
-- locks    the cursor row, the checkpoints' rows
--
-- While another session holds a snapshot, each settlement leaves a version of the cursor row that
-- nobody can remove. So the row is read where it was last; from the table's beginning only if it is
-- not there any more.
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
kept as (
  insert into :"schema".checkpoint as c (
    stream, ring, number, created, seq, message_id, sure, after_seq, base, target, last_id, top_id,
    settled_at
  )
  select t.stream, %(ring)s::int, %(number)s::bigint, t.created, t.seq, t.message_id, t.sure,
         t.after_seq, m.base, m.target, m.last_id, %(top_id)s::bigint, now()
    from moved as m,
         json_to_recordset(%(tips)s::json) as t (
           stream text, created text, seq bigint, message_id text, sure boolean, after_seq bigint
         )
      on conflict (stream, ring) do update
     set number = excluded.number, created = excluded.created, seq = excluded.seq,
         message_id = excluded.message_id, sure = excluded.sure, after_seq = excluded.after_seq,
         base = excluded.base, target = excluded.target, last_id = excluded.last_id,
         top_id = excluded.top_id, settled_at = excluded.settled_at
)
select m.epoch, m.place::text from moved as m
