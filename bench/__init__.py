"""Measurements that anyone can repeat: they start their own servers and end by themselves.

    make bench                                      every scenario, three runs of each
    make bench ARGS="--quick"                       a smoke test, some minutes
    python -m bench --scenario drain --runs 5
    python -m bench.counts --check                  counts that may not get worse

    scenarios/  one thing to find out each ──► findings ──► report.md, report.json, PNGs
    contest     the relay and its peers by one clock        limits   the same without the relay
    subject     the measured relay, in its own process      openloop, pgbench   the producers

The clock is reported and gates nothing: medians, with the range of the runs. What is compared is
run in turn, within one invocation, on the same servers. Counts (statements, WAL, dead rows) do not
depend on the machine, and gate: see ``counts``.
"""
