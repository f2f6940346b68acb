"""As ``faults``: NATS, the streams, events that can't be stored, housekeeping."""

from tests.dashboards.histories import (
    BUS,
    LAG,
    OF_BUS,
    OF_LAG,
    SENT,
    A,
    History,
    Ringing,
    climb,
    count,
    level,
)

REPAIRED = Ringing(
    "RelayRepaired",
    "warning",
    "280 events of orders were published again: a stream had lost them",
    "A stream had lost messages that it had acknowledged. The relay has published them"
    " again, out of the outbox.",
)

LOST = Ringing(
    "RelayEventsLost",
    "critical",
    "A stream of orders has lost events, and the outbox no longer has them",
    "A stream has lost messages that it had acknowledged, and some of these events are"
    " past their retention.",
)

OF_THE_REST = [
    History(
        "NATS is away, and its breaker opens",
        quiet=(10, 11, 21),
        at=14,
        rings=[
            Ringing(
                "RelayOutage",
                "critical",
                "nats is away from relay a (orders)",
                "For a minute nats has not answered the relay, or not let it in.",
                (("instance", "a"), ("job", "orders"), ("relay_side", "nats")),
            ),
            Ringing(
                "RelayBreakerOpen",
                "warning",
                "The bus breaker of orders has been open for 2 minutes",
                "NATS failed several times in a row; the relay lets single tries through.",
                OF_BUS,
            ),
        ],
        faults={
            f'relay_outage{{{A}, relay_side="nats"}}': level((0, 0), (11, 1), (20, 0)),
            # half-open at every third look
            f"relay_breaker_state{{{A}, {BUS}}}": level(
                (0, 0), (11, 2), (13, 1), (14, 2), (16, 1), (17, 2), (20, 0)
            ),
        },
    ),
    History(
        "the lag breaker is open",
        quiet=(10, 12, 21),
        at=14,
        rings=[
            Ringing(
                "RelayBreakerOpen",
                "warning",
                "The lag breaker of orders has been open for 2 minutes",
                "The oldest undelivered event is older than RELAY_CIRCUIT_BREAKER_LAG.",
                OF_LAG,
            )
        ],
        faults={f"relay_breaker_state{{{A}, {LAG}}}": level((0, 0), (11, 2), (20, 0))},
    ),
    History(
        "a stream takes nothing",
        quiet=(10, 15, 31),
        at=17,
        rings=[
            Ringing(
                "RelayStreamHeld",
                "warning",
                "Streams that take nothing from orders: 1",
                "A stream, or a part of one, has refused everything for 5 minutes."
                " Its events wait, the others flow.",
            )
        ],
        faults={f"relay_hold{{{A}}}": level((0, 0), (11, 1), (30, 0))},
    ),
    History(
        "a stream lost what it had acknowledged",
        quiet=(10, 40),
        at=13,
        rings=[REPAIRED],
        faults={f"relay_repaired_total{{{A}}}": level((0, 0), (12, 280))},
    ),
    History(
        "a stream lost what the outbox no longer has",
        quiet=(10, 80),
        at=13,
        rings=[LOST],
        faults={f"relay_lost_total{{{A}}}": level((0, 0), (12, 20))},
    ),
    History(
        "it was published again before a relay was scraped for the first time",
        quiet=(10, 40),
        at=13,
        rings=[REPAIRED],
        faults={f"relay_repaired_total{{{A}}}": level((0, None), (12, 280))},
    ),
    History(
        "it was lost before a relay was scraped for the first time",
        quiet=(10, 80),
        at=13,
        rings=[LOST],
        faults={f"relay_lost_total{{{A}}}": level((0, None), (12, 20))},
    ),
    History(
        "a stream lost messages, and nobody publishes them again",
        quiet=(10, 80),
        at=13,
        rings=[
            Ringing(
                "RelayUnrepaired",
                "critical",
                "A stream of orders has lost messages, and nobody publishes them again",
                "A stream had lost messages that it had acknowledged. RELAY_REPAIR=report leaves"
                " them to a person.",
            )
        ],
        faults={f"relay_unrepaired_total{{{A}}}": level((0, None), (12, 1))},
    ),
    History(
        "events are dead",
        quiet=(10, 11, 31),
        at=13,
        rings=[
            Ringing(
                "RelayDeadLetters",
                "warning",
                "3 events of orders are dead",
                "These events were refused too often. They are kept, and are not tried again by"
                " themselves.",
            )
        ],
        faults={
            f"relay_parked{{{A}}}": level((0, 0), (11, 3), (30, 0)),
            f"relay_dead{{{A}}}": level((0, 0), (11, 3), (30, 0)),
        },
    ),
    History(
        "parked events stay parked",
        quiet=(10, 25, 41),
        at=30,
        rings=[
            Ringing(
                "RelayParkedLong",
                "warning",
                "2 events of orders are parked and not stored",
                "For 15 minutes there have been events in relay.parked that wait to be tried"
                " again.",
            )
        ],
        faults={f"relay_parked{{{A}}}": level((0, 0), (11, 2), (40, 0))},
    ),
    History(
        "answers get lost",
        quiet=(10, 14, 46),
        at=30,
        rings=[
            Ringing(
                "RelayRetryStorm",
                "warning",
                "orders publishes 20 events/s again",
                "More than a tenth of all tries get no clear answer and are made again.",
            )
        ],
        faults={
            f"relay_retries_total{{{A}}}": count((0, 1), (11, 1200), (40, 1)),
            f'{SENT}{{{A}, error_type="unknown"}}': count((0, 0), (11, 1200), (40, 0)),
        },
    ),
    History(
        "a burst of retries after an outage",
        quiet=range(60),
        at=None,
        rings=[],
        faults={f"relay_retries_total{{{A}}}": count((0, 1), (11, 2000), (12, 1))},
    ),
    History(
        "the same message ids again and again",
        quiet=(10, 20, 46),
        at=30,
        rings=[
            Ringing(
                "RelayDuplicatesHigh",
                "warning",
                "JetStream had 10 events/s of orders already",
                "More than one in twenty events is in the stream already when it is published.",
            )
        ],
        faults={f"relay_duplicates_total{{{A}}}": count((0, 1), (11, 600), (40, 1))},
    ),
    History(
        "housekeeping fails",
        quiet=(10, 24, 56),
        at=35,
        rings=[
            Ringing(
                "RelayPostgresErrors",
                "warning",
                "prune fails in Postgres again and again (orders)",
                "For 15 minutes some of the relay's prune statements have failed.",
                (("db_operation_name", "prune"), ("job", "orders")),
            )
        ],
        faults={
            "db_client_operation_duration_seconds_count"
            f'{{{A}, db_operation_name="prune", error_type="StoreOutage"}}': count(
                (0, 0), (11, 1), (50, 0)
            )
        },
    ),
    History(
        "a forgotten transaction holds back vacuum",
        quiet=(10, 14, 41),
        at=20,
        rings=[
            Ringing(
                "RelayVacuumHeldBack",
                "warning",
                "A transaction of 1h 9m 0s holds back vacuum (orders)",
                "A transaction has been open in the outbox's database for over 30 minutes.",
            )
        ],
        faults={f"relay_postgres_oldest_transaction_seconds{{{A}}}": climb(11, 40, 3600, 60)},
    ),
]
