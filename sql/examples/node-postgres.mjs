// One transaction by node-postgres (npm install pg): the change and its events.
import pg from "pg";

const client = new pg.Client(); // PGHOST, PGDATABASE, PGUSER, ...
await client.connect();
try {
  await client.query("begin");
  await client.query("update orders set state = 'paid' where id = $1", [7]);

  await client.query("select relay.emit($1, $2::text, key => $3, headers => $4)", [
    "orders.paid",
    JSON.stringify({ order: 7 }),
    "order-7",
    { source: "shop" },
  ]);
  await client.query("select relay.emit_bytes($1, $2, key => $3, idempotency_key => $4)", [
    "orders.invoice",
    Buffer.from([0x00, 0xff]),
    "order-7",
    "invoice-7",
  ]);

  // many, by one statement
  const lines = [1, 2, 3].map((line) => JSON.stringify({ line }));
  await client.query(
    `insert into relay.outbox (subject, key, payload)
     select 'orders.line', $1, payload::json from unnest($2::text[]) as payload`,
    ["order-7", lines],
  );
  await client.query("commit");
} catch (error) {
  await client.query("rollback"); // error.constraint names the outbox's rule, error.detail the event
  throw error;
} finally {
  await client.end();
}
