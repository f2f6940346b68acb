"""The advisory locks of an outbox, in one place, so that no two uses can ever meet.

Each is a two-integer lock: the class says what for, the second integer which outbox. That is the
outbox table's oid (``'<schema>.outbox'::regclass::oid::int4``), never a stored number, so it is
right again after a dump and restore. Only the migration lock, which is taken before there is a
table, uses ``hashtext(<schema>)``.

    BELL_CLASS       shared: a writer that kept silent; exclusive: the relay asks to be rung
    LEASE_CLASS      the relay that leads
    MIGRATION_CLASS  whoever migrates

``sql/migrations/0007_doorbell.sql`` repeats ``BELL_CLASS``; a test compares the two.
"""

BELL_CLASS = 1919247481
LEASE_CLASS = 1919247482
MIGRATION_CLASS = 1919247483
