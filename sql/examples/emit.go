// One transaction by pgx: the change and its events.
package shop

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

func Pay(ctx context.Context, pool *pgxpool.Pool) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "update orders set state = 'paid' where id = $1", 7); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "select relay.emit($1, $2::text, key => $3, headers => $4)",
			"orders.paid", `{"order": 7}`, "order-7", map[string]string{"source": "shop"}); err != nil {
			return err // a rule of the outbox: errors.As(err, *pgconn.PgError), its ConstraintName
		}
		if _, err := tx.Exec(ctx, "select relay.emit_bytes($1, $2, key => $3, idempotency_key => $4)",
			"orders.invoice", []byte{0x00, 0xff}, "order-7", "invoice-7"); err != nil {
			return err
		}
		// many, by COPY
		lines := [][]any{}
		for line := 1; line <= 3; line++ {
			lines = append(lines, []any{"orders.line", "order-7", map[string]int{"line": line}})
		}
		_, err := tx.CopyFrom(ctx, pgx.Identifier{"relay", "outbox"},
			[]string{"subject", "key", "payload"}, pgx.CopyFromRows(lines))
		return err
	})
}
