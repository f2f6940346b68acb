-- checkpoints: the newest checkpoint of each stream, and which streams a repair is under way for.
--
-- takes    nothing
-- returns  stream, created, seq, message_id, sure, after_seq, number, top_id (of streams without a
--          checkpoint null), repairing (boolean), and until_base, until_target, until_last_id: what
--          was delivered when the repair began
-- reads    all checkpoints: about 96 a stream
-- locks    nothing
select coalesce(c.stream, r.stream) as stream, c.created, c.seq, c.message_id, c.sure, c.after_seq,
       c.number, c.top_id, r.stream is not null as repairing,
       r.base::text, r.target::text, r.last_id
  from (
    select distinct on (k.stream) k.*
      from :"schema".checkpoint as k
     order by k.stream, k.number desc
  ) as c
  full join (
    select distinct on (p.stream) p.*
      from :"schema".repair as p
     where p.ended_at is null
     order by p.stream, p.id
  ) as r on r.stream = c.stream
