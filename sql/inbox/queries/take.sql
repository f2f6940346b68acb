-- take: begin the transaction of some messages' effects (R-ONCE, R-ORDER).
--
-- takes    consumer (text), epoch (bigint), message_ids (text[]), keys (text[]): those of the
--          messages, without null; idle (text): how long the transaction may be silent
-- returns  in_term (boolean); xid (text): of this transaction; taken (text[]): the messages that
--          nobody has taken before; blocked (text[]): the keys that a parked message blocks
-- locks    the consumer's row for key share, until the transaction ends: the next term waits for it
with term as materialized (
  select c.dead_blocks
    from :"schema".inbox_consumer as c
   where c.name = %(consumer)s
     and c.epoch = %(epoch)s::bigint
     for key share
),
taken as (
  insert into :"schema".inbox (consumer, message_id)
  select %(consumer)s, m.message_id
    from term, unnest(%(message_ids)s::text[]) as m (message_id)
  on conflict do nothing
  returning message_id
)
select exists (select from term) as in_term,
       pg_current_xact_id()::text as xid,
       array(select t.message_id from taken as t) as taken,
       array(select distinct k.key
               from term, unnest(%(keys)s::text[]) as k (key)
              where exists (select from :"schema".inbox_parked as p
                             where p.consumer = %(consumer)s
                               and p.key = k.key
                               and (p.dead_at is null or term.dead_blocks))) as blocked,
       set_config('idle_in_transaction_session_timeout', %(idle)s::text, true)
