"""The Postgres adapter: the outbox's schema, and the store, doorbell and lease on top of it.

What Postgres says is authoritative for what has committed, what is settled and who leads.
"""
