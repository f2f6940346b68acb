"""The seeded bugs: each one change of one file, and the tests that must not let it pass."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bug:
    """One wrong version.

    Attributes:
        name: what is wrong, as a person would say it.
        path: the file, from the repository's top.
        right: text that stands in it exactly once.
        wrong: what the bug has instead.
        tests: what of the suite is run: paths and node ids, as pytest takes them.
    """

    name: str
    path: str
    right: str
    wrong: str
    tests: tuple[str, ...]


ENGINE = "tests/test_engine.py"
MODEL = "tests/model"
OUTBOX = "tests/contract/test_postgres.py"

BUGS: tuple[Bug, ...] = (
    Bug(
        "it settles a page before the acks are there",
        "relay/publisher.py",
        "        events = page.events\n",
        "        self._settler.add(Done(page.position))\n        events = page.events\n",
        (MODEL, ENGINE),
    ),
    Bug(
        "it takes no answer for an ack",
        "relay/core/fates.py",
        "        if isinstance(verdict, Stored):\n            fates.stored += 1",
        "        if isinstance(verdict, Stored | Unknown):\n            fates.stored += 1",
        ("tests/core/test_fates.py", ENGINE, MODEL),
    ),
    Bug(
        "a new event overtakes its key's parked one",
        "relay/publisher.py",
        "        if self._retrier.maybe_blocking:\n",
        "        if self._retrier.maybe_blocking and not events:\n",
        (ENGINE, MODEL),
    ),
    Bug(
        "a page is published before the parking of the one before is settled",
        "relay/publisher.py",
        "            await self._settler.add_and_wait(done)\n",
        "            self._settler.add(done)\n",
        (MODEL, ENGINE),
    ),
    Bug(
        "a retry overtakes an earlier event of its key",
        "sql/queries/due.sql",
        "   where not h.blocked\n",
        "",
        (OUTBOX,),
    ),
    Bug(
        "a retry does not wait for its own time behind another one of its key",
        "sql/queries/due.sql",
        "     and not r.stopped\n",
        "",
        (OUTBOX,),
    ),
    Bug(
        "an outage costs an attempt",
        "relay/core/parking.py",
        "        id_, attempts, pause, held_by=outcome.by,",
        "        id_, attempts + 1, pause, held_by=outcome.by,",
        ("tests/core/test_parking.py", ENGINE, MODEL),
    ),
    Bug(
        "a person's retry carries the old message id",
        "sql/queries/due.sql",
        "case when d.retries > 0 then '-retry-' || d.retries else '' end",
        "''",
        (OUTBOX,),
    ),
    Bug(
        "a relay that slept through its own death settles",
        "sql/queries/settle.sql",
        " where epoch = %(epoch)s::bigint\n",
        " where epoch >= %(epoch)s::bigint\n",
        (OUTBOX,),
    ),
    Bug(
        "the cursor forgets who was late to commit",
        "sql/queries/recent.sql",
        "      from pg_snapshot_xip(%(base)s::pg_snapshot) as straggler (xid)\n",
        "      from (select 0::text::xid8 as xid where %(base)s::text is null) as straggler\n",
        ("tests/postgres/test_cursor.py",),
    ),
    Bug(
        "retention deletes what is not settled",
        "sql/queries/prune.sql",
        "     and pg_visible_in_snapshot(c.xid, k.base)\n",
        "",
        (OUTBOX, "tests/postgres/test_store.py"),
    ),
    Bug(
        "it goes to sleep without a last look",
        "relay/doorbell.py",
        "            if self._armed:\n                return  # the last read comes first\n",
        "",
        ("tests/postgres/test_doorbell.py", ENGINE),
    ),
    Bug(
        "it does not listen again when the session is gone",
        "relay/postgres/bell.py",
        "            await anyio.sleep(self._retry.failed(self._jitter()))\n",
        "            await anyio.sleep_forever()\n",
        ("tests/postgres/test_doorbell.py",),
    ),
    Bug(
        "a term that is over publishes on",
        "relay/engine.py",
        "                await self._link.close()  # at once",
        "                # at once",
        (MODEL, ENGINE, "tests/jetstream/test_jetstream_faults.py"),
    ),
    Bug(
        "a parked event is forgotten with its page",
        "relay/postgres/store.py",
        "            await self._parked.write(self._term, done.parked, done.unparked)\n",
        "            pass\n",
        (OUTBOX,),
    ),
    Bug(
        "a statement waits for ever",
        "relay/postgres/session.py",
        "            with anyio.fail_after(deadline):\n"
        "                async with self.connection.cursor",
        "            with anyio.fail_after(deadline * 1000):\n"
        "                async with self.connection.cursor",
        ("tests/postgres/test_store.py", "tests/system/test_lying_connections.py"),
    ),
    Bug(
        "it reads on behind the last id, not behind the last snapshot",
        "relay/postgres/reader.py",
        "        self.position = Position(snapshot)\n        if not rows:\n",
        "        self.position = Position(snapshot)\n"
        "        last = getattr(self, 'last', 0)\n"
        "        rows = [row for row in rows if row[0] > last]\n"
        "        self.last = rows[-1][0] if rows else last\n"
        "        if not rows:\n",
        ("tests/postgres/test_cursor.py",),
    ),
    Bug(
        "an error answer is taken for an ack",
        "relay/jetstream/answers.py",
        '            return judge_error(answer["error"], stream)\n',
        "            return Stored()\n",
        ("tests/jetstream/test_jetstream_paths.py",),
    ),
    Bug(
        "an ack is matched to the wrong event",
        "relay/jetstream/windowed.py",
        "        place = int(rest)\n        if place not in self._in_flight:\n            return\n",
        "        if not self._in_flight:\n            return\n"
        "        place = max(self._in_flight)\n",
        ("tests/jetstream/test_jetstream_paths.py",),
    ),
    Bug(
        "the size of an event is checked without its headers",
        "relay/jetstream/frames.py",
        "    if length > MAX_HEADER_BYTES or size > max_bytes:\n"
        "        return _oversize(length, len(payload), max_bytes)\n"
        "    return frame.encode()",
        "    if length > MAX_HEADER_BYTES or len(payload) > max_bytes:\n"
        "        return _oversize(length, len(payload), max_bytes)\n"
        "    return frame.encode()",
        ("tests/jetstream/test_jetstream_paths.py", "tests/jetstream/test_jetstream_frames.py"),
    ),
    Bug(
        "what was buffered goes out when the connection is closed",
        "relay/jetstream/wire.py",
        "    transport.abort()\n\n\ndef _current_task",
        "    transport.close()\n\n\ndef _current_task",
        (
            "tests/jetstream/test_jetstream_faults.py",
            "tests/jetstream/test_jetstream_connection.py",
        ),
    ),
    Bug(
        "a person's retry is refused by a limit that was raised since",
        "relay/jetstream/outgoing.py",
        "            return await self._doubt_the_limit(stream, sent.outcomes)\n",
        "            return sent.outcomes\n",
        ("tests/jetstream/test_jetstream_paths.py",),
    ),
    Bug(
        "a new term finds the breaker as the last one left it",
        "relay/buslink.py",
        '        self._pause_over("a new term does not wait for the last one\'s pause")\n',
        "",
        (ENGINE, MODEL),
    ),
)
