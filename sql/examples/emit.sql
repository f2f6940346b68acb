-- One transaction by psql: the change and its events.   psql -f emit.sql
begin;
update orders set state = 'paid' where id = 7;

select relay.emit('orders.paid', '{"order": 7}', key => 'order-7', headers => '{"source": "shop"}');
select relay.emit_bytes('orders.invoice', '\x00ff', key => 'order-7', idempotency_key => 'invoice-7');

-- many, by one statement
insert into relay.outbox (subject, key, payload)
select 'orders.line', 'order-7', json_build_object('line', line) from generate_series(1, 3) as line;
commit;
