"""The Grafana dashboards, as code: ``python -m relay.dashboards.grafana`` writes their files anew.

    promql      expressions, made from the instruments: a name that is not there can't be written
    panels      panels as Grafana's JSON wants them
    now, rows   the rows, in the order in which a person reads them
    sqlboard    the second dashboard, which asks Postgres itself
    board       puts them together, with variables and annotations

For a person who was woken up: the first row says whether events arrive, how late, who leads and
what is broken, by instant queries, for the last value of a dead relay is no answer. Every panel
says what to do. One job is one outbox: its relays share the label ``job``.
"""
