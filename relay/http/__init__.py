"""What a running relay shows to those outside: probes, people, scrapers, the service manager.

    Relay ──facts──► Health, Latency ──► PageState ──one snapshot a second──► Feed ──► who watches
                          │                ▲
                          │             Database ◄── Postgres: dead letters, standbys;
                          │                         only while somebody watches
                          ├──► /livez, /readyz
                          └──► systemd: READY, STATUS, WATCHDOG

Nothing here can slow, stop or end delivery: what is shown is made once a second for everybody, what
is asked of the database is asked in a session of its own, and what fails here is logged and left
out. The library knows nothing of it: ``python -m relay run`` puts it around a ``Relay``, which it
knows by the few methods of ``seen.Watched`` and by its facts.
"""
