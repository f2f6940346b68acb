-- lead: begin a term, if the lease is free.
--
-- takes    consumer, holder, stream (text), subjects (text[]), dead_blocks (boolean), lifetime
--          (float8, s)
-- returns  epoch, position, position_at, and the subjects of the term before; no row while another
--          term lasts
-- locks    the consumer's row, for update: waits for the transactions of the term before (which
--          hold it for key share), so that none of them commits after this one
--
-- A renewal takes no key lock, so it waits for no handler. The position is the stream's, whatever
-- the subjects, and not for these alone as migration 0001 says: with a position of 0 a durable that
-- is made anew begins with the oldest message.
with free as (
  select c.name, c.subjects
    from :"schema".inbox_consumer as c
   where c.name = %(consumer)s
     and c.lease_until <= clock_timestamp()
     for update
),
ours as (
  update :"schema".inbox_consumer as c
     set epoch = c.epoch + 1,
         holder = %(holder)s,
         lease_until = clock_timestamp() + make_interval(secs => %(lifetime)s::float8),
         position = case when c.stream = %(stream)s then c.position else 0 end,
         stream = %(stream)s,
         subjects = %(subjects)s::text[],
         dead_blocks = %(dead_blocks)s::boolean
    from free as f
   where c.name = f.name
  returning c.epoch, c.position, c.position_at, f.subjects
)
select o.epoch, o.position, o.position_at, o.subjects from ours as o
