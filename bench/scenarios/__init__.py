"""What can be measured, in the order in which it is. A scenario is one file and one line here."""

from bench.scenario import Scenario
from bench.scenarios import (
    audit,
    backlog,
    drain,
    http,
    latency,
    light,
    long_transaction,
    outage,
    peers,
    producers,
    slow_flush,
    snapshot,
    steady,
    telemetry,
    writing,
)

SCENARIOS = (
    Scenario("drain", "how fast waiting events drain, beside what is possible here", drain.run),
    Scenario("latency", "from a producer's commit to the stored message", latency.run),
    Scenario("producers", "what the outbox and the relay cost the producers", producers.run),
    Scenario("writing", "what the outbox costs one writer, and a bulk INSERT", writing.run),
    Scenario("slow-flush", "what rings cost where a WAL flush takes long", slow_flush.run),
    Scenario("steady", "producers as fast as they go, for minutes", steady.run),
    Scenario("long-transaction", "the same with an old snapshot held", long_transaction.run),
    Scenario("backlog", "the same rate whatever waits", backlog.run),
    Scenario("outage", "after a stream's outage", outage.run),
    Scenario("snapshot", "single statements while another session holds a snapshot", snapshot.run),
    Scenario("http", "who asks the status page without a pause, and the probes", http.run),
    Scenario("light", "what it takes at rest and at low rates", light.run),
    Scenario("peers", "what people use today, by the same clock", peers.run),
    Scenario("audit", "how fast `relay audit` judges what was delivered", audit.run),
    Scenario("telemetry", "what metrics and traces cost", telemetry.run),
)
