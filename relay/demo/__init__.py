"""The demo: a small real workload through a real relay, judged by what its producers committed.

    producers (own processes) ── one transaction: orders + events ──► Postgres ──► relay ──► NATS
        │                                                          (own process)             │
        └── after each commit: what it committed ──► judge ◄── the whole stream, read back ──┘

What the producers say they committed is the truth here; the relay and its tables have no say in
the verdict. ``oracle`` and ``readback`` know nothing of orders: tests that kill relays use them,
too. If anything fails the demo says why, shows the relay's last log lines and exits with 1;
whatever happens, its servers, processes and files go with it.
"""
