"""Bugs of the consumer's inbox."""

from tests.bugs.bug import Bug

HANDLING = "tests/consumer/test_handling.py"
PROCESSES = "tests/consumer/test_processes.py"
OUTAGES = "tests/consumer/test_outages.py"
DECISIONS = "tests/consumer/test_decisions.py"
HAND = "tests/consumer/test_hand.py"
COMMAND = "tests/consumer/test_command.py"
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
        "        while self._in_order and self._in_order[-1].is_done:\n",
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
        "a consumer parks behind a message that a person has dropped meanwhile",
        "sql/inbox/queries/park.sql",
        "where p.key is not null)\n",
        "where p.key is null)\n",
        (DECISIONS + "::test_a_decision_between_taking_and_parking_waits_for_nobody_and_is_seen",),
    ),
    Bug(
        "a decision does not see what a consumer parks at the same time",
        "sql/inbox/functions/inbox_line_up.sql",
        "    perform inbox_lock_keys($1, $2);",
        "    perform $1;",
        (
            DECISIONS + "::test_what_is_parked_while_a_drop_commits_is_due",
            DECISIONS + "::test_a_decision_behind_what_is_parked_and_not_committed_sees_it",
        ),
    ),
    Bug(
        "a decision waits for a consumer's handlers",
        "sql/inbox/functions/inbox_drop.sql",
        "    order by c.name for key share;\n",
        "    order by c.name for update;\n",
        (DECISIONS + "::test_a_decision_between_taking_and_parking_waits_for_nobody_and_is_seen",),
    ),
    Bug(
        "a consumer and a decision wait for each other",
        "relay/consumer/database.py",
        '            await _run(transaction, "lock_keys", about)\n',
        "            pass\n",
        (DECISIONS + "::test_a_lane_locks_the_key_before_the_row_as_decisions_do",),
    ),
    Bug(
        "a dead message without a key is retried twice by two who decide at once",
        "sql/inbox/functions/inbox_retry.sql",
        "     where p.id = o.id and p.dead_at is not null\n",
        "     where p.id = o.id\n",
        (DECISIONS + "::test_two_people_who_decide_at_once_decide_once",),
    ),
    Bug(
        "a consumer whose subjects change begins again",
        "sql/inbox/queries/lead.sql",
        "case when c.stream = %(stream)s then",
        "case when c.stream = %(stream)s and c.subjects = %(subjects)s::text[] then",
        (OUTAGES + "::test_other_subjects_keep_the_position_though_rows_and_durable_go",),
    ),
    Bug(
        "a consumer does not say what subject it reads in part",
        "relay/consumer/database.py",
        "        added = _added(before, subjects) if position else ()\n",
        "        added = ()\n",
        (OUTAGES + "::test_other_subjects_keep_the_position_though_rows_and_durable_go",),
    ),
    Bug(
        "relay inbox decides about the first thousand dead messages alone",
        "relay/cli/inbox.py",
        "range(0, len(ids), CHUNK):\n",
        "range(1):\n",
        (COMMAND + "::test_all_dead_messages_are_found_however_many_there_are",),
    ),
    Bug(
        "relay inbox list cuts its list in silence",
        "relay/cli/inbox.py",
        "    if total > len(rows):\n",
        "    if total < len(rows):\n",
        (COMMAND + "::test_a_list_that_is_cut_says_so",),
    ),
    Bug(
        "relay inbox does not say what it did before it failed",
        "relay/cli/inbox.py",
        "            if done:\n                log",
        "            if not done:\n                log",
        (COMMAND + "::test_a_decision_about_many_that_fails_half_way_says_what_is_done",),
    ),
    Bug(
        "relay inbox takes a right that is missing for a bug",
        "relay/consumer/migrations.py",
        "        async with session.transaction():\n            missing",
        "        if session:\n            missing",
        (
            COMMAND + "::test_a_right_that_is_missing_is_said_with_an_inbox_s_remedy",
            COMMAND + "::test_a_connection_that_is_lost_is_no_bug",
        ),
    ),
    Bug(
        "relay inbox gives an outbox's remedy",
        "relay/consumer/migrations.py",
        "isinstance(cause, errors.InsufficientPrivilege):",
        "not cause:",
        (COMMAND + "::test_a_right_that_is_missing_is_said_with_an_inbox_s_remedy",),
    ),
    Bug(
        "a consumer keeps a message that is done",
        "relay/consumer/message.py",
        "        del self.held[id(delivery)]\n",
        "",
        (HAND + "::test_a_message_leaves_the_memory_when_it_is_done",),
    ),
    Bug(
        "a consumer keeps a place for each message behind one that takes long",
        "relay/consumer/message.py",
        "            self._merge()\n",
        "            pass\n",
        (HAND,),
    ),
    Bug(
        "places that were made one are counted as one",
        "relay/consumer/message.py",
        "                place.count += merged.pop().count\n",
        "                merged.pop()\n",
        (HAND,),
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
