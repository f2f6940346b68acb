"""What ``python -m relay run`` shows of its relay: probes, page, metrics, word to systemd.

    Relay ──facts──► Health ──► PageState ──a message a second──► Feed ──► watchers of the page
                       │            ▲
                       │         Database ◄── Postgres: dead events, standbys; only while watched
                       ├──► /livez, /readyz
                       └──► systemd: READY, STATUS, WATCHDOG

Nothing here can slow, stop or end delivery: a message is made once a second for every watcher, the
database is asked in a session of its own, and what fails here is logged and left out.
"""
