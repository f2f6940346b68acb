// One transaction by Postgres.js (npm install postgres): the change and its events.
import postgres from "postgres";

const sql = postgres(); // PGHOST, PGDATABASE, PGUSER, ...
await sql.begin(async (sql) => {
  await sql`update orders set state = 'paid' where id = ${7}`;

  await sql`select relay.emit('orders.paid', ${sql.json({ order: 7 })}::jsonb, key => ${"order-7"},
                              headers => ${sql.json({ source: "shop" })})`;
  await sql`select relay.emit_bytes('orders.invoice', ${Buffer.from([0x00, 0xff])},
                                    key => ${"order-7"}, idempotency_key => ${"invoice-7"})`;

  // many, by one statement
  const lines = [1, 2, 3].map((line) => ({
    subject: "orders.line",
    key: "order-7",
    payload: sql.json({ line }),
  }));
  await sql`insert into relay.outbox ${sql(lines, "subject", "key", "payload")}`;
}); // an error rolls back: error.constraint_name names the outbox's rule, error.detail the event
await sql.end();
