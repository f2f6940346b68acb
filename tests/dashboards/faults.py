"""Every fault that has an alert: when it has to ring, what it has to say, when it has to stop."""

from tests.dashboards.histories import (
    BUCKET,
    HEALTHY,
    SENT,
    A,
    B,
    History,
    Ringing,
    climb,
    count,
    level,
)

OF_DELIVERY = [
    History("all is well", range(0, 151, 5), None, [], {}),
    History(
        "the relays are gone",
        quiet=(10, 12, 31),
        at=14,
        rings=[
            Ringing(
                "RelayAbsent",
                "critical",
                "No relay reports (orders)",
                "No relay has been scraped for 2 minutes."
                " Nobody can tell whether events are delivered.",
            )
        ],
        faults={
            f"relay_leader{{{A}}}": level((0, 1), (11, None), (30, 1)),
            f"relay_leader{{{B}}}": level((0, 0), (11, None), (30, 0)),
        },
    ),
    History(
        "no relay was ever heard of",
        quiet=(1, 61),
        at=3,
        rings=[
            Ringing(
                "RelayAbsent",
                "critical",
                "No relay reports",
                "No relay has been scraped for 2 minutes."
                " Nobody can tell whether events are delivered.",
                labels=(),
            )
        ],
        faults=dict.fromkeys(HEALTHY)
        | {
            f"relay_leader{{{A}}}": level((60, 1)),
            f"relay_leader{{{B}}}": level((60, 0)),
        },
    ),
    History(
        "the leader stands back and nobody follows",
        quiet=(10, 11, 26),
        at=12,
        rings=[
            Ringing(
                "RelayNobodyLeads",
                "critical",
                "Relays of orders run, but none leads",
                "No relay has led for a minute. Nothing is delivered.",
            )
        ],
        faults={f"relay_leader{{{A}}}": level((0, 1), (11, 0), (25, 1))},
    ),
    History(
        "a takeover, in which the old leader is seen for two minutes longer",
        quiet=range(60),
        at=None,
        rings=[],
        faults={
            f"relay_leader{{{A}}}": level((0, 1), (13, 0)),
            f"relay_leader{{{B}}}": level((0, 0), (11, 1)),
            f"relay_epoch{{{B}}}": level((11, 8)),
        },
    ),
    History(
        "two lead",
        quiet=(13, 31),
        at=15,
        rings=[
            Ringing(
                "RelayTwoLead",
                "critical",
                "2 relays of orders say that they lead",
                "More than one relay has called itself leader for 3 minutes."
                " Only one of them can settle.",
            )
        ],
        faults={f"relay_leader{{{B}}}": level((0, 0), (11, 1), (30, 0))},
    ),
    History(
        "the standby is gone",
        quiet=(60, 70, 91),
        at=80,
        rings=[
            Ringing(
                "RelayStandbyGone",
                "info",
                "Nobody stands by for orders any more",
                "One relay is left where there were more."
                " Delivery goes on; the next fault stops it.",
            )
        ],
        faults={
            f"relay_leader{{{B}}}": level((0, 0), (61, None), (90, 0)),
            f'relay_outage{{{B}, relay_side="postgres"}}': level((0, 0), (61, None), (90, 0)),
        },
    ),
    History(
        "terms end soon after they begin",
        quiet=(40, 43, 44, 80),
        at=50,
        rings=[
            Ringing(
                "RelayTermsFlap",
                "warning",
                "orders changed its leader 5 times in 30 minutes",
                "Terms end soon after they begin. Each change costs a moment of delivery.",
            )
        ],
        faults={
            f"relay_epoch{{{A}}}": level((0, 7), (41, 8), (42, 9), (43, 10), (44, 11), (45, 12))
        },
    ),
    History(
        "events are late",
        quiet=(10, 11, 21),
        at=12,
        rings=[
            Ringing(
                "RelayEventsLate",
                "critical",
                "Events of orders are 1m 30s late",
                "The oldest committed event has not been delivered for over a minute.",
            )
        ],
        faults={f"relay_lag_seconds{{{A}}}": level((0, 0.01), (11, 90), (20, 0.01))},
    ),
    History(
        "nothing is delivered for fifty minutes, and the outbox grows",
        quiet=(10, 11, 62),
        at=40,
        rings=[
            Ringing(
                "RelayEventsLate",
                "critical",
                "Events of orders are 30m 0s late",
                "The oldest committed event has not been delivered for over a minute.",
            ),
            Ringing(
                "RelayOutboxGrows",
                "warning",
                "The outbox of orders takes 23.4GB in 4 hours if this goes on",
                "It takes 4.2GB now and grows by 80MB a minute; the oldest undelivered event is"
                " 30m 0s old.",
            ),
        ],
        faults={
            f"relay_lag_seconds{{{A}}}": climb(10, 60, 0, 60),
            # it grows before and afterwards as well, when events are delivered
            f"relay_outbox_size_bytes{{{A}}}": climb(0, 150, 1e9, 80e6),
        },
    ),
    History(
        "events wait and none is stored",
        quiet=(14, 17, 36),
        at=25,
        rings=[
            Ringing(
                "RelayDeliversNothing",
                "critical",
                "Relay orders delivers nothing, and 700 events wait",
                "For over 5 minutes events have waited and none was stored.",
            )
        ],
        faults={
            f"{SENT}{{{A}}}": count((0, 6000), (11, 0), (34, 6000)),
            f"relay_backlog{{{A}}}": level((0, 5), (11, 700), (34, 5)),
        },
    ),
    History(
        "nothing is written, so nothing is stored",
        quiet=range(0, 60, 3),
        at=None,
        rings=[],
        faults={
            f"{SENT}{{{A}}}": count((0, 6000), (11, 0)),
            f"relay_backlog{{{A}}}": level((0, 5), (11, 0)),
        },
    ),
    History(
        "producers are faster",
        quiet=(10, 20, 46),
        at=30,
        rings=[
            Ringing(
                "RelayBacklogGrows",
                "warning",
                "The backlog of orders grows, 31k events wait",
                "Over 10,000 events wait, and for 10 minutes there have been more and more"
                " of them.",
            )
        ],
        faults={f"relay_backlog{{{A}}}": climb(11, 45, 12_000, 1_000)},
    ),
    History(
        "delivery is slow",
        quiet=(10, 20, 56),
        at=30,
        rings=[
            Ringing(
                "RelayDeliverySlow",
                "warning",
                "One in a hundred events of orders takes 2.41s or longer",
                "The 99th percentile from an event's being written to its acknowledgement is over"
                " a second.",
            )
        ],
        faults={
            f'{BUCKET}{{{A}, le="0.005"}}': count((0, 5900), (11, 3000), (50, 5900)),
            f'{BUCKET}{{{A}, le="1"}}': count((0, 6000), (11, 5000), (50, 6000)),
        },
    ),
]
