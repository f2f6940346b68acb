-- renew: keep the lease, and say how far the consumer is.
--
-- takes    consumer (text), epoch (bigint), lifetime (float8, s; 0 gives the lease back), position
--          (bigint), position_at (timestamptz)
-- returns  a row, unless another term has begun
-- locks    the consumer's row, against renewals and the next term, not against handlers
update :"schema".inbox_consumer as c
   set lease_until = clock_timestamp() + make_interval(secs => %(lifetime)s::float8),
       position = case when %(position_at)s::timestamptz >= c.position_at
                       then %(position)s::bigint else c.position end,
       position_at = greatest(c.position_at, %(position_at)s::timestamptz)
 where c.name = %(consumer)s
   and c.epoch = %(epoch)s::bigint
returning c.epoch
