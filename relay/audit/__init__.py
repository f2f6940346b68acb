"""Judges what a relay did: an outbox against a stream. What lost, phantom, duplicate, reordered and
corrupt mean is decided in ``oracle`` alone, for the audit, the demo, the tests and the soak.
"""
