"""What runs in a peer's own environment: one program each, started by path, or by name if ours.

Python workers take DSN, NATS_URL, STREAM and SUBJECT; those with a schema of their own print it
when started with ``schema`` alone. They import nothing of this repository.
"""
