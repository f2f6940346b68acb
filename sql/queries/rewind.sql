-- rewind: go back to what streams still hold, in one step, and end the term (R-LOSS).
--
-- takes    epoch, holder: the term that does it; epoch null: a person does, whoever leads
--          base, target, last_id: where to read on; of the checkpoint this is, top_id (bigint),
--          since (timestamptz), back_to (text) and back_number (bigint), its stream and number;
--          pruned (boolean): rows behind it may have been deleted; streams (text[]), seqs (bigint[]), side by side: what has lost messages, and up
--          to where each still holds them; forget_streams (text[]), forget_numbers (bigint[]): the
--          checkpoints that are not true any more; bare_streams, bare_created (text[]): streams that
--          hold none of theirs, of which the next term looks at every message
-- returns  stream, seq, after_id, up_to_id, gone_from, gone_to of each stream; no row if another term
--          has begun
-- reads    an entry of the primary key behind top_id; the unparked since the checkpoint
-- locks    the cursor row, the checkpoints' rows, the marks
--
-- What was published since is new again, and so is its retention. A relay that dies now, or while it
-- publishes, goes on from here. Parked events that were stored since are parked again, and due.
with was as materialized (
  select c.base, c.target, c.last_id,
         coalesce((select max(k.top_id) from :"schema".checkpoint as k), 0) as up_to_id,
         (select o.id from :"schema".outbox as o
           where o.id > %(top_id)s::bigint
           order by o.id
           limit 1) as next_id
    from :"schema".cursor as c
),
back as (
  update :"schema".cursor as c
     set base = %(base)s::pg_snapshot,
         target = %(target)s::pg_snapshot,
         last_id = %(last_id)s::bigint,
         epoch = c.epoch + 1,
         holder = null
   where %(epoch)s::bigint is null
      or c.epoch = %(epoch)s::bigint
     and c.holder = %(holder)s::text
  returning c.epoch
),
forgotten as (
  delete from :"schema".checkpoint as k
   using unnest(%(forget_streams)s::text[], %(forget_numbers)s::bigint[]) as f (stream, number)
   where k.stream = f.stream
     and k.number = f.number
     and exists (select from back)
),
unmarked as (
  delete from :"schema".settled as s
   where pg_snapshot_xmax(s.base) >= pg_snapshot_xmax(%(base)s::pg_snapshot)
     and exists (select from back)
),
unknown as (
  insert into :"schema".checkpoint (
    stream, ring, number, created, seq, message_id, sure, after_seq, base, last_id, top_id
  )
  select b.stream, -1, 0, b.created, 0, '', false, 0, '1:1:', 0, 0
    from unnest(%(bare_streams)s::text[], %(bare_created)s::text[]) as b (stream, created)
   where exists (select from back)
      on conflict (stream, ring) do update set created = excluded.created
),
parked_again as (
  insert into :"schema".parked (
    event_id, id, key, subject, created_at, retries, next_attempt_at, last_error
  )
  select distinct on (u.event_id)
         u.event_id, u.id, u.key, u.subject, u.created_at, u.retries, clock_timestamp(),
         'its stream has lost it: to be published again'
    from :"schema".unparked as u
   where (%(since)s::timestamptz is null
          or u.unparked_at > %(since)s::timestamptz
          -- the clock was set back: transaction ids tell, for as long as they are not used anew
          or age(u.xmin) < (select age(k.xmin)
                              from :"schema".checkpoint as k
                             where k.stream = %(back_to)s::text
                               and k.number = %(back_number)s::bigint))
     and exists (select from back)
   order by u.event_id, u.unparked_at desc
      on conflict (event_id) do nothing
)
insert into :"schema".repair (
  stream, seq, after_id, up_to_id, gone_from, gone_to, base, target, last_id
)
select l.stream, l.seq, %(top_id)s::bigint, w.up_to_id,
       case when g.is_gone then %(top_id)s::bigint + 1 end,
       case when g.is_gone then least(coalesce(w.next_id - 1, w.up_to_id), w.up_to_id) end,
       w.base, w.target, w.last_id
  from back, was as w,
       unnest(%(streams)s::text[], %(seqs)s::bigint[]) as l (stream, seq)
 cross join lateral (
   select %(pruned)s::boolean
          and %(top_id)s::bigint < w.up_to_id
          and coalesce(w.next_id > %(top_id)s::bigint + 1, true) as is_gone
 ) as g
returning stream, seq, after_id, up_to_id, gone_from, gone_to
