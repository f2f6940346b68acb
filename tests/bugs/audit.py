"""Bugs of the oracle, the audit, where, and the reading of streams."""

from tests.bugs.bug import Bug

ORACLE = "tests/audit/test_oracle.py"
VERDICTS = "tests/audit/test_verdicts.py"
FOLLOW = "tests/audit/test_follow.py"
READING = "tests/audit/test_reading.py"
WHERE = "tests/audit/test_where.py"
THEIRS = "tests/audit/test_theirs.py"

BUGS = (
    Bug(
        "an inversion hides the ones behind it",
        "relay/audit/oracle.py",
        "                if before is None or event.sequence > before[0]:\n",
        "                if before is None or event.sequence != before[0] - 1:\n",
        (ORACLE,),
    ),
    Bug(
        "every inversion is a finding, whether its transactions may have overlapped or not",
        "relay/audit/oracle.py",
        "        if (self.serial or is_one or is_known) and not is_old:\n",
        "        if not is_old:\n",
        (ORACLE,),
    ),
    Bug(
        "a copy is a phantom once its first one is on the shelf",
        "relay/audit/shelf.py",
        '        array("q", chain.from_iterable(old)).tofile(self._file)\n',
        '        array("q", chain.from_iterable(old[1:])).tofile(self._file)\n',
        (ORACLE,),
    ),
    Bug(
        "what waits on the shelf is not fetched",
        "relay/audit/oracle.py",
        "        return bool(absent) and not self._rows.fetch(absent)\n",
        "        return bool(absent) and len(self._rows) < len(absent)\n",
        (ORACLE,),
    ),
    Bug(
        "a row that commits late is never seen",
        "relay/audit/run.py",
        "        while late := await self.outbox.late(now):\n",
        "        while late := (await self.outbox.late(now))[:0]:\n",
        (FOLLOW,),
    ),
    Bug(
        "what the relay has not settled yet counts as lost",
        "relay/audit/run.py",
        'if fates.get(event.sequence) in ("settled", "gone")]\n',
        "if event.sequence in fates]\n",
        (VERDICTS,),
    ),
    Bug(
        "what the stream's limits have removed counts as lost",
        "relay/audit/run.py",
        "        is_old = written is not None and written < self._since\n",
        "        is_old = False\n",
        (VERDICTS,),
    ),
    Bug(
        "what a person deleted from the stream counts as lost",
        "relay/audit/run.py",
        "                self._gap_at = message.at_ns / _NS\n",
        "                self._gap_at = 0.0\n",
        (VERDICTS,),
    ),
    Bug(
        "what the outbox's retention has removed counts as made up",
        "relay/audit/run.py",
        "            return stored_at < kept.since + _SKEW\n",
        "            return stored_at < kept.since - 3600\n",
        (VERDICTS,),
    ),
    Bug(
        "a missing delivery is not noticed",
        "relay/jetstream/deliveries.py",
        "        if first != self._delivered + 1 or last - first + 1 != len(messages):\n",
        "        if last - first + 1 != len(messages):\n",
        (READING,),
    ),
    Bug(
        "what comes while a batch is at work is dropped at the end",
        "relay/jetstream/deliveries.py",
        "        while self.pending or self._came or up_to == math.inf:\n",
        "        while self.pending or up_to == math.inf:\n",
        (READING + "::test_what_comes_while_a_batch_is_at_work_is_handed_on_too",),
    ),
    Bug(
        "after a lost connection the last batch comes again",
        "relay/jetstream/reading.py",
        "                        begun_at, waits_since = Start(batch[-1].seq + 1), math.inf\n",
        "                        begun_at, waits_since = Start(batch[0].seq), math.inf\n",
        (READING,),
    ),
    Bug(
        "an event in flight is called pending",
        "relay/audit/where.py",
        '        return "in flight" if stored else "pending"\n',
        '        return "pending"\n',
        (WHERE,),
    ),
    Bug(
        "where asks the stream before the outbox's time",
        "relay/audit/where.py",
        "        start = Start(at=min(row.created_at for row in answer.rows) - _SKEW)\n",
        "        start = Start(at=max(row.created_at for row in answer.rows) + _SKEW)\n",
        (WHERE,),
    ),
    Bug(
        "where looks for a pruned event without the prefix of its message id",
        "relay/audit/where.py",
        '        (header("Nats-Msg-Id"), {ref, prefix + ref}),\n',
        '        (header("Nats-Msg-Id"), {ref}),\n',
        (WHERE + "::test_a_pruned_event_is_found_behind_a_prefix_and_by_its_uuid_in_capitals",),
    ),
    Bug(
        "where looks for a pruned event by its UUID as it was typed",
        "relay/audit/where.py",
        "        (event_id, {uuid}),\n",
        "        (event_id, {ref}),\n",
        (WHERE + "::test_a_pruned_event_is_found_behind_a_prefix_and_by_its_uuid_in_capitals",),
    ),
    Bug(
        "what isdigit takes for a number is read as one",
        "relay/audit/run.py",
        "and _NUMBER.fullmatch(message.event_id):",
        "and message.event_id.isdigit():",
        (THEIRS + "::test_a_name_that_is_no_number_is_compared_with_no_id",),
    ),
    Bug(
        "the status believes a leader that saw nothing late, whatever is late now",
        "relay/cli/status.py",
        '    if row["lag_seconds"] > limit:\n',
        '    if not row["led"] and row["lag_seconds"] > limit:\n',
        ("tests/cli/test_status.py",),
    ),
    Bug(
        "an error code that Postgres's type does not hold is asked for",
        "relay/cli/dead_events.py",
        "        most=LARGEST_INT,\n",
        "",
        ("tests/cli/test_dead_decisions.py",),
    ),
    Bug(
        "a replay's number that Postgres's type does not hold is asked for",
        "relay/cli/replay.py",
        "            max=LARGEST_BIGINT,\n",
        "",
        ("tests/cli/test_replay.py::test_what_cannot_be_meant_is_named",),
    ),
    Bug(
        "an event whose stream was not read is called missing",
        "relay/audit/where.py",
        '    return "missing" if answer.streams and not answer.unseen else "unknown"\n',
        '    return "missing" if answer.streams else "unknown"\n',
        (WHERE + "::test_nats_away_is_said_and_the_rest_is_answered",),
    ),
    Bug(
        "an event is called missing though no stream was looked at",
        "relay/audit/where.py",
        '    return "missing" if answer.streams and not answer.unseen else "unknown"\n',
        '    return "unknown" if answer.unseen else "missing"\n',
        (WHERE + "::test_without_a_stream_to_look_at_a_settled_event_is_not_called_missing",),
    ),
    Bug(
        "what a person dropped is called missing",
        "relay/audit/where.py",
        "    if row.event_id in (answer.dropped or {}):\n",
        "    if row.event_id in ():\n",
        (WHERE + "::test_what_the_stream_has_no_more_is_missing_unless_a_person_dropped_it",),
    ),
    Bug(
        "a later event that was dropped counts as published before the dead one",
        "sql/queries/dead_later.sql",
        "d.event_id = o.event_id and d.action = 'drop'",
        "d.event_id = o.event_id and d.action = 'replay'",
        ("tests/cli/test_dead_decisions.py",),
    ),
    Bug(
        "a jsonb column is compared with the bytes of the messages",
        "relay/audit/run.py",
        "            self.messages.payload = self.outbox.payload  # json for a jsonb column\n",
        "",
        (THEIRS,),
    ),
    Bug(
        "the payload of an empty table is taken for text",
        "relay/audit/outbox.py",
        "pg_typeof(coalesce((select {} from {} as o limit 1), null))::text",
        "coalesce((select pg_typeof({})::text from {} as o limit 1), 'text')",
        (THEIRS,),
    ),
    Bug(
        "an outage of Postgres loses the messages that wait for a verdict",
        "relay/audit/run.py",
        "        self.judge.unknown = unknown = self.judge.conclude()  # kept through an outage\n",
        "        unknown = self.judge.conclude()\n",
        (THEIRS + "::test_messages_without_a_row_get_their_verdict_after_an_outage",),
    ),
)
