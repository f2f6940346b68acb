"""The demo: a small real workload through a real relay, checked against what was committed.

    producers (own processes) ── one transaction: orders + events ──► Postgres ──► relay ──► NATS
        │                                                          (own process)             │
        └── after each commit: what it committed ──► check ◄── the whole stream, read back ──┘

What the producers say they committed is the truth here; nothing that the relay or its tables say
enters the findings. ``check`` knows nothing of orders: tests that kill relays use it, too. If
anything fails the demo says why, shows the relay's last log lines and exits with 1. Its servers,
processes and files are always removed.
"""
