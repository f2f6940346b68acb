"""Bugs of the consumer's inbox."""

from tests.bugs.bug import Bug

HANDLING = "tests/consumer/test_handling.py"
PROCESSES = "tests/consumer/test_processes.py"
OUTAGES = "tests/consumer/test_outages.py"
HAND = "tests/consumer/test_hand.py"
SCHEMA = "tests/consumer/test_schema.py"

BUGS = (
    Bug(
        "a consumer reads on without what was delivered to the dead",
        "relay/consumer/jetstream.py",
        "    if last > floor:\n",
        "    if last > floor and not durable.name:\n",
        (
            PROCESSES
            + "::test_what_was_delivered_to_the_dead_comes_first_without_waiting_for_ack_wait",
        ),
    ),
    Bug(
        "a consumer overlooks a gap in the deliveries",
        "relay/consumer/jetstream.py",
        "first != self._number + 1 or ",
        "first <= self._number or ",
        (PROCESSES + "::test_somebody_else_who_reads_from_the_durable_upsets_no_order",),
    ),
    Bug(
        "a consumer commits what a handler left failed",
        "relay/consumer/database.py",
        '            if (await _run(transaction, "seal", {}))[0][0] != xid:\n',
        "            if not xid:\n",
        (HANDLING,),
    ),
    Bug(
        "a consumer's next term does not wait for the transactions of the last one",
        "sql/inbox/queries/take.sql",
        "     for key share\n",
        "",
        (PROCESSES + "::test_a_leader_whose_term_is_over_commits_nothing",),
    ),
    Bug(
        "a consumer handles what an inbox has taken",
        "relay/consumer/lanes.py",
        "                        if message.id in taking.fresh:\n"
        "                            taking.fresh.discard(message.id)\n",
        "                        if message.id:\n",
        (HANDLING,),
    ),
    Bug(
        "a consumer does not see that a key is blocked",
        "relay/consumer/lanes.py",
        "                    fence = KeyFence(taking.blocked)\n",
        "                    fence = KeyFence()\n",
        (HANDLING + "::test_poison_is_parked_with_its_key_behind_it_and_all_others_flow",),
    ),
    Bug(
        "a consumer takes any answer of a handler for success",
        "relay/consumer/calling.py",
        "        if answer is not None:\n",
        "        if answer is NotImplemented:\n",
        (HANDLING,),
    ),
    Bug(
        "a parked message of a consumer is handled out of turn",
        "sql/inbox/functions/inbox_line_up.sql",
        "      order by f.consumer, f.key, f.id\n",
        "      order by f.consumer, f.key, f.id desc\n",
        (HANDLING,),
    ),
    Bug(
        "a consumer forgets a message that may still be delivered again",
        "relay/consumer/message.py",
        "self._passed >= added",
        "self._passed >= 0",
        (HAND,),
    ),
    Bug(
        "a consumer's floor passes what is in hand",
        "relay/consumer/message.py",
        "        while self._in_order and self._in_order[0].is_done:\n",
        "        while self._in_order and delivery.is_done:\n",
        (HAND,),
    ),
    Bug(
        "a stream that was made anew is taken for known",
        "relay/consumer/message.py",
        "message.sequence <= self.position and message.stored_at <= self.position_at",
        "message.sequence <= self.position",
        (HAND, OUTAGES + "::test_the_durable_and_its_stream_may_go_and_nothing_is_done_twice"),
    ),
    Bug(
        "an inbox forgets what is parked",
        "sql/inbox/functions/inbox_prune.sql",
        "                and not exists (select from inbox_parked as p\n"
        "                                 where p.consumer = o.consumer"
        " and p.message_id = o.message_id)\n",
        "",
        (SCHEMA,),
    ),
)
