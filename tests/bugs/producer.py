"""Bugs of what producers write with."""

from tests.bugs.bug import Bug

EMIT = "tests/producer/test_emit.py"
PSYCOPG = "tests/producer/test_psycopg.py"
CORE = "tests/producer/test_core.py"

BUGS = (
    Bug(
        "an event is written where no transaction is open",
        "relay/producer/psycopg.py",
        "    if connection.autocommit and ",
        "    if connection.closed and ",
        (PSYCOPG,),
    ),
    Bug(
        "emit commits",
        "relay/producer/psycopg.py",
        "        (found,) = cursor.fetchone() or ()\n",
        "        (found,) = cursor.fetchone() or ()\n        connection.commit()\n",
        (EMIT + "::test_the_event_goes_with_a_transaction_that_is_rolled_back",),
    ),
    Bug(
        "the connection's own row factory decides what an id is",
        "relay/producer/psycopg.py",
        '        raise core.wrong_type(connection, "a psycopg.Connection")\n'
        "    _refuse_autocommit(connection)\n"
        "    return connection.cursor(row_factory=tuple_row)\n",
        '        raise core.wrong_type(connection, "a psycopg.Connection")\n'
        "    _refuse_autocommit(connection)\n"
        "    return connection.cursor()\n",
        (PSYCOPG,),
    ),
    Bug(
        "the current span overrules the traceparent that is given",
        "relay/producer/core.py",
        '        of_span = headers if "traceparent" in headers else {**of_span, **headers}\n',
        "        of_span = {**headers, **of_span}\n",
        (EMIT + "::test_the_event_carries_the_span_that_is_current",),
    ),
    Bug(
        "JSON that is written already is written again",
        "relay/producer/core.py",
        "    if isinstance(payload, JsonText):\n        return str(payload), None\n",
        "    if isinstance(payload, JsonText):\n        return json.dumps(payload), None\n",
        (CORE, EMIT + "::test_odd_characters_arrive_as_they_were_given"),
    ),
    Bug(
        "many are written in whatever order",
        "sql/queries/emit_many.sql",
        " order by e.place\n",
        " order by e.place desc\n",
        (EMIT + "::test_many_are_written_in_their_order_whatever_each_holds",),
    ),
)
