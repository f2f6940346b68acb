"""All seeded bugs: in what keeps the promises, and in what stands around it."""

from tests.bugs import (
    audit,
    consumer,
    doctor,
    engine,
    fates,
    jetstream,
    postgres,
    producer,
    reconcile,
    replay,
)
from tests.bugs.bug import Bug

PROMISES: tuple[Bug, ...] = (
    engine.BUGS + fates.BUGS + postgres.BUGS + jetstream.BUGS + reconcile.BUGS
)
BUGS: tuple[Bug, ...] = (
    PROMISES + replay.BUGS + producer.BUGS + consumer.BUGS + doctor.BUGS + audit.BUGS
)
