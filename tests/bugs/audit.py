"""Bugs of the oracle, the audit, where, and the reading of streams."""

from tests.bugs.bug import Bug

ORACLE = "tests/audit/test_oracle.py"
VERDICTS = "tests/audit/test_verdicts.py"
FOLLOW = "tests/audit/test_follow.py"
READING = "tests/audit/test_reading.py"
WHERE = "tests/audit/test_where.py"

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
)
