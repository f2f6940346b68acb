-- The first bank: pgbench's own tables, and a trigger that emits each movement.
--
-- The key is the teller: pgbench updates its balance before it writes history, so a teller's
-- movements commit in the order of their ids, and the balance after each one is known.
create or replace function public.emit_movement() returns trigger
language plpgsql
as $emit$
begin
  perform relay.emit(
    'bank.moved',
    json_build_object(
      'tid', new.tid, 'bid', new.bid, 'aid', new.aid, 'delta', new.delta,
      'teller', (select t.tbalance from public.pgbench_tellers as t where t.tid = new.tid)
    ),
    key => 'teller-' || new.tid
  );
  return new;
end
$emit$;

create trigger emit_movement after insert on public.pgbench_history
  for each row execute function public.emit_movement();
