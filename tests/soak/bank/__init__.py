"""The proof of both ends: pgbench's bank, and a second one that hears of it by outbox and inbox."""
